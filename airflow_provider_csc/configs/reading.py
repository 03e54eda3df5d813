"""Read a configuration: templates first, then YAML, then placeholders, then the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from airflow_provider_csc.configs.checks import problems_of
from airflow_provider_csc.configs.documents import (
    Document,
    Problem,
    has_template,
    read_document,
    walk_strings,
)
from airflow_provider_csc.configs.models import Model
from airflow_provider_csc.configs.placeholders import fill, values_of
from airflow_provider_csc.notation import shown
from airflow_provider_csc.yaml_text import MAX_DEPTH

ModelT = TypeVar("ModelT", bound=Model)


def read_model(
    model: type[ModelT],
    source: Mapping[str, object] | str,
    *,
    name: str = "configs",
    context: Mapping[str, object] | None = None,
    is_rendered: bool = False,
    must_close: bool = False,
) -> ModelT:
    """
    Return the model that a mapping, or the text of a YAML document, says.

    :param name: what errors call it: a file's name, or an object's.
    :param context: what templates and placeholders know, as ``{"csc_user": "alice"}``; Airflow's
        own context is one.
    :param is_rendered: templates in it were rendered before, and what looks like one is text.
    :param must_close: refuse what is left of placeholders that are known, but not here.
    :raises ConfigError: for all that is wrong with it, with file, line, column and field.
    """
    document = _parse(source, name, None if is_rendered else context or {})
    _check(document)
    value, problems = fill(document.value, values_of(context), must_close=must_close)
    try:
        made = model.model_validate(value)
    except ValidationError as error:
        raise document.error([*problems, *problems_of(error)]) from error
    if problems:
        raise document.error(problems)
    return made


def _parse(source: object, name: str, context: Mapping[str, object] | None) -> Document:
    """Return what is said; templates are rendered where there is a context."""
    if not isinstance(source, (str, Mapping)):
        text = f"{shown(source)} is of type {type(source).__name__}, and no mapping. Give a dict."
        raise Document(name=name, value=None).error([Problem(path=(), text=text)])
    if not isinstance(source, str):
        document = Document(name=name, value=dict(source))
        _check_depth(document)
        if context is None or not any(
            has_template(text) for _, text in walk_strings(document.value)
        ):
            return document
        return _render_values(document, context)
    if context is None or not has_template(source):
        return read_document(source, name=name)
    from airflow_provider_csc.configs.templating import render_text  # noqa: PLC0415 - where needed

    rendered = render_text(source, context, name=name)
    return read_document(rendered.text, name=name, trace=rendered.trace)


def _render_values(document: Document, context: Mapping[str, object]) -> Document:
    from airflow_provider_csc.configs.templating import render_values  # noqa: PLC0415

    value = render_values(document.value, context, name=document.name)
    return Document(name=document.name, value=value)


def _check_depth(document: Document) -> None:
    try:
        for _ in walk_strings(document.value):
            pass
    except RecursionError as error:
        text = (
            f"there are more than {MAX_DEPTH} lists and mappings within each other, or one is in "
            "itself. Leave some out."
        )
        raise document.error([Problem(path=(), text=text)]) from error


def _check(document: Document) -> None:
    """Refuse what is no mapping, and text that no file can hold."""
    if not isinstance(document.value, dict):
        raise document.error([Problem(path=(), text=_describe(document.value))])
    problems = [
        Problem(path=path, text="half a character is in it, which no file can hold. Decode it.")
        for path, text in walk_strings(document.value)
        if any("\ud800" <= character <= "\udfff" for character in text)
    ]
    if problems:
        raise document.error(problems)


def _describe(value: object) -> str:
    if value is None:
        return "it is empty. Write for example 'modules: [gcc]'."
    file = "A file is named as pathlib.Path, or by a name that ends with .yaml or .yml."
    hint = file if isinstance(value, str) else "Write for example 'modules: [gcc]'."
    return f"{shown(value)} is no mapping of names to values. {hint}"

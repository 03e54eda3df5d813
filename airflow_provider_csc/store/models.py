"""Values of a pydantic model as JSON values, and back."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from airflow_provider_csc.allas.strict_json import JsonError, render_json

ModelT = TypeVar("ModelT", bound=BaseModel)


class ModelError(ValueError):
    """A value that is none of the model; the text says where and why."""


def parse_model(model: type[ModelT], value: object) -> ModelT | None:
    """Read a model from a JSON value; None from None. Raises ModelError."""
    if value is None:
        return None
    try:
        # As JSON, in which a strict model too takes times and the like as text.
        return model.model_validate_json(render_json(value))
    except ValidationError as error:
        raise ModelError(_describe(model, error)) from error


def render_model(model: type[ModelT], value: ModelT) -> object:
    """Return the JSON value of a model, which `parse_model` reads; raises ModelError."""
    if not isinstance(value, model):
        raise ModelError(f"{type(value).__name__} is not the record's model {model.__name__}")
    plain: object = value.model_dump(mode="json", by_alias=True)
    try:
        # Changed models are not validated by pydantic, and aliases may differ both ways.
        parse_model(model, plain)
    except JsonError as error:
        raise ModelError(str(error)) from error
    return plain


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return f"it is no {model.__name__}: {'; '.join(problems[:5])}"

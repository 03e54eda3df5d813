"""Sites and benches that the tests of the client and of the submitter share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from airflow_provider_csc.client.slurm import SlurmClient
from tests.support.bench import Bench, FaultyBench, bench_of, directory_of
from tests.support.fake_site import FakeSite, FaultyTransport, LocalTransport, fake_site
from tests.support.real_site import RealSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(params=["fake", pytest.param("cluster", marks=pytest.mark.cluster)])
def site(request: pytest.FixtureRequest) -> Iterator[FakeSite | RealSite]:
    if request.param == "cluster":
        yield RealSite()
        return
    with fake_site() as fake:
        yield fake


@pytest_asyncio.fixture
async def bench(site: FakeSite | RealSite) -> AsyncIterator[Bench]:
    with directory_of(site) as scratch:
        async with bench_of(site, scratch, site.transport()) as bench:
            yield bench


@pytest.fixture
def fake() -> Iterator[FakeSite]:
    with fake_site() as fake:
        yield fake


@pytest_asyncio.fixture
async def faulty_bench(fake: FakeSite) -> AsyncIterator[FaultyBench]:
    with directory_of(fake) as scratch:
        transport = FaultyTransport(LocalTransport(fake))
        client = SlurmClient(transport)
        yield FaultyBench(fake, client, scratch, faulty=transport, delays=(0.02, 0.05, 0.1))

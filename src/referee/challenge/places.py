"""Where the ledger and the objects are kept."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from referee.challenge.section import Frozen


def _address(url: str) -> str:
    # Never printed as it was found: it may hold a password.
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError('it must be like "postgresql://USER@HOST/DATABASE"')
    if re.search(r"://[^/?#]*:[^/?#]*@|[?&]password=", url):
        raise ValueError("it holds a password, which belongs into ~/.pgpass: this file is copied and committed")
    return url


class LedgerChoice(Frozen):
    """Where the ledger lies: by default in a file below the challenge's folder (docs/ledger.md).

    `url` is the address of a PostgreSQL database, without a password; `?schema=NAME` names the campaign's schema, which
    is called like the challenge otherwise.
    """

    url: Annotated[str, AfterValidator(_address)] | None = None


class ObjectsChoice(Frozen):
    """Where images, data and results lie: by default in a folder below the challenge's (docs/ledger.md).

    Attributes:
        url: `s3://BUCKET/PREFIX`.
        region: of the bucket.
        endpoint: of another service than AWS that speaks S3, such as `https://minio.example:9000`.
    """

    url: Annotated[str, Field(pattern=r"^s3://[^?#]+$")] | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    endpoint: Annotated[str, Field(pattern=r"^https?://[^?#@]+$")] | None = None

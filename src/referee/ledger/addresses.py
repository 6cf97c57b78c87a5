"""Addresses of ledgers in PostgreSQL: libpq's URI, and the schema as one parameter more."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlsplit

_PREFIXES = ("postgresql://", "postgres://")


def is_address(where: object) -> bool:
    """Whether this names a PostgreSQL database."""
    return isinstance(where, str) and where.startswith(_PREFIXES)


def with_schema(url: str, schema: str) -> str:
    """The address with that schema, unless it names one already."""
    try:
        query = urlsplit(url).query
    except ValueError:
        return url  # whoever opens it refuses it, without printing it
    if "schema" in dict(parse_qsl(query, keep_blank_values=True)):
        return url
    return f"{url}{'&' if query else '?'}schema={quote(schema, safe='')}"

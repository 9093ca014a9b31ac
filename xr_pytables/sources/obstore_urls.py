"""URLs of Google Cloud Storage and Azure as stores of obstore, which puts a condition on each request.

fsspec's file systems for them (gcsfs, adlfs) know no conditions, so that each range costs a second request. They are
left where only they know what the user's options mean, or how to find credentials that the options do not name.

Tested in `tests/sources/test_clouds.py`.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .obstore_objects import first_line

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore

_GOOGLE: Final = frozenset({"gs", "gcs"})
_AZURE: Final = frozenset({"az", "abfs", "abfss"})
_OPTIONS_OF_GOOGLE: Final = frozenset({"token", "project", "endpoint_url"})
_OPTIONS_OF_AZURE: Final = frozenset(
    {
        "account_name", "account_key", "sas_token", "tenant_id", "client_id", "client_secret", "anon",
        "connection_string",
    }
)  # fmt: skip
_CONNECTION: Final = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}
_USUAL: Final = {("DefaultEndpointsProtocol", "http"), ("DefaultEndpointsProtocol", "https"),
                 ("EndpointSuffix", "core.windows.net")}  # fmt: skip


_NO_NAMES: Final = frozenset({"", ".", ".."})
"""Between the slashes of a path, legal in a store and not in obstore."""


class _Words(NamedTuple):
    """A URL and options in the words of obstore."""

    bucket: str
    path: str
    config: dict[str, Any]
    signed: bool
    """Whether the options say how requests are signed, or that they are not."""


def store_of(url: str, options: Mapping[str, Any]) -> tuple[GCSStore | AzureStore, str] | None:
    """A store and the path of the URL in it; None where it is left to fsspec's file system.

    That is so for other URLs, names of objects and options that have no equal in obstore; without obstore; and where
    the options name no credentials, if fsspec's file system is there to look for them. Raises ValueError for options of
    which it makes no store.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _GOOGLE | _AZURE or any(sign in url for sign in ("::", "?", "#")):
        return None
    words = _words_of_google(rest, options) if scheme in _GOOGLE else _words_of_azure(rest, options)
    if words is None or not _NO_NAMES.isdisjoint(words.path.split("/")) or not (words.signed or _is_unknown(scheme)):
        return None
    try:
        return _store(scheme in _GOOGLE, words.bucket, tuple(sorted(words.config.items()))), words.path
    except ImportError:
        return None
    except Exception as error:  # obstore has its own kinds, one for all of this
        raise ValueError(f"storage_options make no store: {first_line(error)}") from None


def _is_unknown(scheme: str) -> bool:
    """Whether the package that fsspec wants for a scheme is missing."""
    from fsspec import get_filesystem_class  # not everybody reads from a network

    try:
        get_filesystem_class(scheme)
    except ImportError:
        return True
    return False


@functools.lru_cache(maxsize=16)
def _store(google: bool, bucket: str, config: tuple[tuple[str, Any], ...]) -> GCSStore | AzureStore:
    """The store of a bucket, with its connections. Who asks tries again and has a limit of time, so it does neither."""
    from obstore import store  # an extra

    words: dict[str, Any] = dict(config)
    plain = str(words.get("base_url") or words.get("endpoint") or "").startswith("http://")
    kind = store.GCSStore if google else store.AzureStore
    return kind(
        bucket,
        client_options={"allow_http": plain, "timeout": datetime.timedelta(hours=1)},
        retry_config={"max_retries": 0},
        **words,
    )


def _words_of_google(rest: str, options: Mapping[str, Any]) -> _Words | None:
    if not options.keys() <= _OPTIONS_OF_GOOGLE:
        return None
    token, endpoint, config = options.get("token"), options.get("endpoint_url"), dict[str, Any]()
    if token == "anon":
        config["skip_signature"] = True
    elif isinstance(token, Mapping) and token.get("type") == "service_account":
        config["service_account_key"] = json.dumps(dict(token))
    elif isinstance(token, str) and os.path.isfile(os.path.expanduser(token)):
        config["application_credentials"] = os.path.expanduser(token)
    elif token not in (None, "google_default"):
        return None
    if endpoint:
        config["base_url"] = str(endpoint)
    bucket, _, path = rest.partition("/")
    return _Words(bucket, path, config, token not in (None, "google_default"))


def _words_of_azure(rest: str, options: Mapping[str, Any]) -> _Words | None:
    if not options.keys() <= _OPTIONS_OF_AZURE:
        return None
    given = {name: value for name, value in options.items() if value is not None}
    config = _of_connection(str(given.pop("connection_string", "")))
    if config is None:
        return None
    if given.pop("anon", False):
        config["skip_signature"] = True
    if "sas_token" in given:
        given["sas_key"] = str(given.pop("sas_token")).lstrip("?")
    container, _, path = rest.partition("/")
    container, _, host = container.partition("@")
    if host:
        config["account_name"] = host.partition(".")[0]
    config = {**config, **given}
    if "account_name" not in config and "AZURE_STORAGE_ACCOUNT_NAME" not in os.environ:
        return None
    signed = not config.keys().isdisjoint({"skip_signature", "account_key", "sas_key", "client_secret"})
    return _Words(container, path, config, signed)


def _of_connection(text: str) -> dict[str, Any] | None:
    """What a connection string of Azure says; None if that is more than is known here."""
    found = dict[str, Any]()
    for part in filter(None, text.split(";")):
        name, _, value = part.partition("=")
        if name in _CONNECTION:
            found[_CONNECTION[name]] = value.lstrip("?")
        elif (name, value) not in _USUAL and not name.endswith("Endpoint"):
            return None
    return found

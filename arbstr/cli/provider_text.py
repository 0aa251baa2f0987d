"""What the configuration says of a provider, for a person: its key, its proxy, its APIs."""

from collections.abc import Sequence

from arbstr.cli.config_file import NOT_SET
from arbstr.sansio.config.credentials import key_variable
from arbstr.sansio.config.settings import BEARER, ProviderConfig
from arbstr.sansio.endpoints import ENDPOINTS


def access(provider: ProviderConfig) -> str:
    """With which key, through which proxy, and by which APIs if not by all."""
    proxy = "" if provider.proxy is None else f"  through {provider.proxy.shown}"
    return _key_status(provider) + proxy + served_by(provider.endpoints)


def served_by(endpoints: Sequence[str]) -> str:
    """Empty for one that serves all."""
    return "" if tuple(endpoints) == ENDPOINTS else f"  serves {', '.join(endpoints)} only"


def _key_status(provider: ProviderConfig) -> str:
    if provider.api_key is None:
        return f"no key ({key_variable(provider.name)} is not set)"
    if NOT_SET in provider.api_key.reveal():
        missing = " or ".join(f"${{{name}}}" for name in provider.key_variables)
        return f"no key here ({missing} is not set)"
    how = "" if provider.key_header == BEARER else f", sent as {provider.key_header}"
    source = "".join(f"${{{name}}}" for name in provider.key_variables) or provider.key_source
    return f"key {provider.api_key.masked()} (from {source}{how})"

"""DVC: where a checkout keeps the results of its pipeline."""

from __future__ import annotations

from pathlib import Path

from tidegate.errors import ConfigError
from tidegate.files import write_atomic

REMOTE = "shared"


def link(checkout: Path, address: str) -> None:
    """Make a checkout keep its pipeline's results at `address`, by .dvc/config.local (never committed).

    A folder becomes the cache itself, the run cache included: what one checkout made, the next one takes,
    and there is nothing to push or pull. Anything else (s3://, ssh://, …) becomes the default remote.
    Other settings in the file, credentials for instance, are kept. Does nothing when it is so already.
    Raises ConfigError when the checkout has no .dvc/.
    """
    from configobj import ConfigObj  # type: ignore[import-untyped] # what DVC reads and writes them by

    folder = checkout / ".dvc"
    if not (folder / "config").is_file():
        raise ConfigError("is missing", "Restore it from Git, or run `dvc init`.", where=".dvc/config")
    path = folder / "config.local"
    before = path.read_text() if path.is_file() else ""
    settings = ConfigObj(before.splitlines(), list_values=False)
    local = "://" not in address
    target = str(Path(address).absolute()) if local else address
    if local:
        settings.setdefault("cache", {})["dir"] = target
    elif "cache" in settings:
        settings["cache"].pop("dir", None)
        if not settings["cache"]:
            del settings["cache"]
    # A folder is the remote, too: `dvc pull` insists on one, and finds everything in the cache.
    settings.setdefault("core", {})["remote"] = REMOTE
    settings.setdefault(f'remote "{REMOTE}"', {})["url"] = target
    after = "\n".join(settings.write()) + "\n"
    if after != before:
        write_atomic(path, after)

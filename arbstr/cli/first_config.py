"""`arbstr init`: the first configuration, which is the example of this version."""

import os
import shlex
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from arbstr.cli.config_file import HERE, absolute
from arbstr.sansio.errors import StartError

EXAMPLE: Final = "config.example.toml"


def example_text(package: Traversable) -> str:
    """The example, from the package (a wheel) or beside it (a source tree)."""
    inside = package.joinpath(EXAMPLE)
    if not inside.is_file() and isinstance(package, Path):
        inside = package.parent / EXAMPLE
    return inside.read_text("utf-8")


def already_there(path: Path) -> StartError:
    """A first configuration is written once."""
    return StartError((f"{path}: is there already and was left alone; name another with -c PATH",))


def write(path: Path, text: str) -> None:
    """Writes a configuration, for its owner alone.

    Raises `StartError` if anything is there already, a dangling link too, or it cannot be written.
    """
    try:
        # O_EXCL: it is we who make the file, or nobody touches it. Keys will stand in it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise already_there(path) from None
    except FileNotFoundError:
        absolute(path)  # or the directory it is to be in is the current one, and gone
        raise StartError(
            (f"{path}: there is no such directory as {path.parent}; make it first",)
        ) from None
    except OSError as error:
        raise StartError((f"{path}: cannot be written: {error.strerror}",)) from None
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        # Half a configuration would be taken for a whole one.
        with suppress(OSError):
            path.unlink()
        raise StartError((f"{path}: cannot be written: {error.strerror}",)) from None


def named(path: Path) -> str:
    """What a command needs to find the configuration, besides its own name."""
    return "" if path == HERE else f" -c {shlex.quote(str(path))}"


def run(path: Path) -> int:
    """Writes the example, and says what to do with it. Raises what `write` does."""
    write(path, example_text(files("arbstr")))
    option = named(path)
    print(f"{path} is written; only you can read it. Its providers are examples. Now")
    print("  1. put your own providers, models and rates into it")
    print("  2. set the variables its keys come from: export ALPHA_KEY=...")
    print(f"  3. arbstr check{option}")
    print(f"  4. arbstr run{option}")
    return 0

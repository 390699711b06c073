"""python -m bridge.amct [options] script.py args...: run a script that imports AMCT."""

import argparse

from bridge.amct.aliases import TARGETS
from bridge.amct.scripts import run


def main(arguments: list[str] | None = None) -> None:
    """Run a script as `python script.py args...` would, with AMCT's names resolved to bridge.

    Args:
        arguments: of the command line, sys.argv[1:] by default.
    Raises:
        SystemExit: the command line is wrong, or the script exits.
        ImportError: AMCT itself is installed and --force is not given.
    """
    parser = argparse.ArgumentParser(prog="python -m bridge.amct", description=main.__doc__)
    parser.add_argument(
        "--target", choices=TARGETS, default=TARGETS[0], help="target of the deploy models"
    )
    parser.add_argument(
        "--prelude", help="a script that runs first; its names are defined in the script"
    )
    parser.add_argument(
        "--force", action="store_true", help="take precedence over an installed AMCT"
    )
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    run(
        given.script,
        given.args,
        prelude=given.prelude,
        target=given.target,
        force=given.force,
    )


if __name__ == "__main__":
    main()

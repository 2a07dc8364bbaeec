"""The browser application and its REST service."""

from collections.abc import Callable
from importlib.util import find_spec

from cyclegan_age.config import DemoConfig, UserError, install_extra


def serve(config: DemoConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        config: where, with which weights and limits.
        say: takes lines for the user.

    Raises:
        UserError: a package is missing, weights that cannot be used, or an address that cannot be had.
    """
    if find_spec("gradio") is None:
        raise UserError(f"gradio is not installed; {install_extra('web')}")
    from cyclegan_age.web.server import run

    run(config, say)

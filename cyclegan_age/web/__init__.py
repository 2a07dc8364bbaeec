"""The browser application and its REST service."""

import os
from collections.abc import Callable
from importlib.util import find_spec

from cyclegan_age.config import DemoConfig, LabelConfig, UserError, install_extra

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported


def serve(config: DemoConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        config: address, weights and limits.
        say: called with lines for the user.

    Raises:
        UserError: a package is not installed, weights cannot be used, or the address is in use.
    """
    _check()
    from cyclegan_age.web.server import run

    run(config, say)


def serve_labels(config: LabelConfig, say: Callable[[str], None]) -> None:
    """Estimate the missing labels of a folder, and serve the page that confirms them until Ctrl-C.

    Args:
        config: folder and port.
        say: called with lines for the user.

    Raises:
        UserError: as `labeler.run.label`; a package is not installed, or the port is in use.
    """
    _check()
    from cyclegan_age.web.labels import run

    run(config, say)


def _check() -> None:
    if find_spec("gradio") is None:
        raise UserError(f"gradio is not installed; {install_extra('web')}")

"""Prefect, Hugging Face and friends kept quiet and on this machine. Called before they are imported; what the user set wins."""

import atexit
import logging
import os

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}


def configure() -> None:
    """Set the environment and our own log: warnings to stderr, one line each."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    atexit.register(_close_stderr)  # registered first, so it runs last
    logger = logging.getLogger("alphatoken")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _close_stderr() -> None:
    """Close stderr when Python is done: DuckDB 2.0's binding prints some forty lines about leaks of its own while it is torn down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

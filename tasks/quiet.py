"""Prefect, Hugging Face and friends kept quiet and on this machine. Called before they are imported; what the user set wins."""

import atexit
import json
import logging
import os
from datetime import UTC, datetime

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


_SERVED = {
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_TO_API_ENABLED": "true",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "alphatoken",
}
"""Instead, for processes that runs of a server come from: what they log is read in Prefect's interface."""


def configure(*, served: bool = False) -> None:
    """Set the environment and our own log: warnings to stderr, one line each; JSON lines where ALPHATOKEN_LOG is `json`.

    Args:
        served: whether runs are started for a server, whose interface shows their logs.
    """
    for name, value in (_ENVIRONMENT | (_SERVED if served else {})).items():
        os.environ.setdefault(name, value)
    atexit.register(_close_stderr)  # registered first, so it runs last
    logger = logging.getLogger("alphatoken")
    structured = os.environ.get("ALPHATOKEN_LOG") == "json"
    if structured or served:
        logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines() if structured else logging.Formatter("%(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


class _JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC), level, message, and what a record carries of a run or a stage."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        told = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(), "level": record.levelname, "message": record.getMessage()}
        told |= {name: getattr(record, name) for name in ("run_id", "stage", "seconds", "counts") if hasattr(record, name)}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def _close_stderr() -> None:
    """Close stderr when Python is done: DuckDB 2.0's binding prints some forty lines about leaks of its own while it is torn down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

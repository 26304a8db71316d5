"""What Prefect's user interface shows of a run: summary, kept share by source, what failed and what to do, and a link to the report."""

from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from reports.study import Study
from reports.study import markdown as study_markdown
from reports.summary import failure_markdown, markdown, training_markdown
from tasks.runs import Run
from tasks.training import TrainingReceipt
from warehouse.read import Reader


def show_run(run: Run, counts: dict[str, Any]) -> None:
    """Show what a run did, and what the release that readers now have keeps of each source."""
    create_markdown_artifact(key="value-tokens", markdown=markdown(counts), description="What this run did")
    with Reader(run.config.warehouse_folder) as reader:
        policies = [str(row[0]) for row in reader.run("explain/policies").fetchall()]
        table = [{"policy": policy} | row for policy in policies for row in reader.named("kept_by_source", policy=policy).to_dicts()]
    create_table_artifact(key="kept-by-source", table=table, description="Response tokens kept, by policy and source")
    _link(run)


def show_failure(run: Run, error: BaseException, counts: dict[str, Any]) -> None:
    """Show how far a failed run came, and what to do."""
    create_markdown_artifact(key="run-failed", markdown=failure_markdown(run.flow, error, counts), description="Why this run failed")


def show_training(run: Run, receipt: TrainingReceipt) -> None:
    """Show what a training measured."""
    create_markdown_artifact(key="train-masked", markdown=training_markdown(receipt.policy, receipt.trained, receipt.metrics))
    _link(run)


def show_study(done: Study) -> None:
    """Show table and verdict of a study."""
    create_markdown_artifact(key="study", markdown=study_markdown(done))


def _link(run: Run) -> None:
    if run.config.schedule.report is not None:
        create_link_artifact(key="report", link=run.config.schedule.report, link_text="Report", description="Values, token by token")

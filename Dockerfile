# A worker, or the process of `alphatoken serve`: docs/operations.md. Not built where this was written (no base image there); a test reads it.
FROM python:3.11-slim

# The environment changes seldom, the code often: dependencies first.
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_HOME=/state/prefect
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY models models
COPY warehouse warehouse
COPY reports reports
# EXTRAS=peft,ray makes an image for the machines of a Ray cluster.
ARG EXTRAS=peft
RUN python -m pip install --constraint constraints.txt --editable ".[${EXTRAS}]"
COPY prefect.yaml prefect.toml ./

# Nobody's rights are needed but to the project folder, which is mounted.
RUN useradd --create-home --uid 1000 alphatoken && mkdir -p /state /project && chown alphatoken:alphatoken /state /project
USER 1000:1000
VOLUME ["/state", "/project"]

# PREFECT_API_URL names the server. Workers instead: prefect worker start --pool alphatoken
ENTRYPOINT ["alphatoken"]
CMD ["serve", "/project/alphatoken.yaml"]

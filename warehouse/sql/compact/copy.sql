-- Copy everything that is alive, views and comments included, into an empty attached database, which has no free blocks then.
COPY FROM DATABASE alphatoken TO compact

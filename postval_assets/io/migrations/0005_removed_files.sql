-- Migration 5: which files of archives were removed on purpose, and when.

CREATE TABLE removed_files (
    archive_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, n_files INTEGER, size_bytes BIGINT, reason VARCHAR,
    removed_at TIMESTAMPTZ NOT NULL, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

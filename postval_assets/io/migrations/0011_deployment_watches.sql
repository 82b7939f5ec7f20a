-- Migration 11: what became of models after they went LIVE.

CREATE TABLE deployment_watches (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, as_of TIMESTAMPTZ NOT NULL,
    plan VARCHAR NOT NULL, watched_until TIMESTAMPTZ, n_returns INTEGER, sharpe_reference DOUBLE,
    sharpe_observed DOUBLE, return_since DOUBLE, statistic DOUBLE, boundary DOUBLE, alarm BOOLEAN NOT NULL,
    alarm_ts TIMESTAMPTZ, status VARCHAR NOT NULL, reason VARCHAR, model_sha256 VARCHAR, bars_digest VARCHAR,
    inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

-- Migration 3: what the checks found in each stored series of bars.

CREATE TABLE bar_quality (
    symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, check_name VARCHAR NOT NULL, severity VARCHAR NOT NULL,
    value DOUBLE, recent_value DOUBLE, unit VARCHAR, limit_warn DOUBLE, limit_error DOUBLE, n_bars INTEGER,
    first_ts TIMESTAMPTZ, last_ts TIMESTAMPTZ, detail VARCHAR, error_from TIMESTAMPTZ, bars_digest VARCHAR,
    run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

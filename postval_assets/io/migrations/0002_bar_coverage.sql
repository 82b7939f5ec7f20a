-- Migration 2: what was asked of a source whose history costs requests, and when adjusted history was restated.

CREATE TABLE bar_coverage (
    symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, source VARCHAR NOT NULL, start_ts TIMESTAMPTZ NOT NULL,
    end_ts TIMESTAMPTZ NOT NULL, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE bar_restatements (
    symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, source VARCHAR NOT NULL,
    detected_at TIMESTAMPTZ NOT NULL, first_ts TIMESTAMPTZ, last_ts TIMESTAMPTZ, ratio DOUBLE, n_compared INTEGER,
    n_differing INTEGER, n_bars_before INTEGER, n_bars_after INTEGER, n_changed INTEGER, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

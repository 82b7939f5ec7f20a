-- Migration 9: what a model does on bars of its training window, beside what its training summary claims.

CREATE TABLE claim_reproductions (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, start_ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ, n_blocks INTEGER, n_bars INTEGER, n_trades INTEGER, claimed_fitness DOUBLE,
    claimed_profit_factor DOUBLE, reproduced_profit_factor DOUBLE, reproduced_profit_factor_high DOUBLE,
    claimed_consistency DOUBLE, reproduced_consistency DOUBLE, claimed_max_drawdown DOUBLE,
    reproduced_max_drawdown DOUBLE, reproduced_return DOUBLE, reproduced_sharpe DOUBLE, status VARCHAR,
    reason VARCHAR, model_sha256 VARCHAR, bars_digest VARCHAR, settings_digest VARCHAR, inputs_digest VARCHAR,
    run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

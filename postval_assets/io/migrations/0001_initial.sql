-- Migration 1: the tables. What each table and column means, and each table's key, is in dictionary.py, which is
-- written into the database as COMMENT ON at every migration.
--
-- There is no PRIMARY KEY and no CHECK. An index over the key made replacing 200,000 points of equity curves four
-- times slower (1.2 s for 0.25 s) and the file four times larger, and DuckLake, on which the same statements are
-- to run, has neither. The warehouse checks keys itself, in the transaction that writes.

CREATE TABLE schema_versions (
    version INTEGER NOT NULL, name VARCHAR NOT NULL, run_id VARCHAR, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE revision (
    revision BIGINT NOT NULL, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE publication (
    replica VARCHAR NOT NULL, revision BIGINT NOT NULL, published_at TIMESTAMPTZ NOT NULL,
    run_id VARCHAR, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE training_archives (
    archive_id VARCHAR NOT NULL, sha256 VARCHAR, file_name VARCHAR, size_bytes BIGINT,
    received_at TIMESTAMPTZ, trained_at TIMESTAMPTZ, train_start TIMESTAMPTZ, train_end TIMESTAMPTZ,
    reward_scale DOUBLE, validation_interval INTEGER, n_trials INTEGER, n_models INTEGER,
    n_rejected INTEGER, models VARCHAR[], status VARCHAR, reason VARCHAR, stored_path VARCHAR,
    run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE archive_deliveries (
    sha256 VARCHAR, file_name VARCHAR, size_bytes BIGINT, seen_at TIMESTAMPTZ, outcome VARCHAR,
    attempt INTEGER, archive_id VARCHAR, reason VARCHAR, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE training_claims (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    fitness_history DOUBLE[], profit_factor_history DOUBLE[], consistency_history DOUBLE[],
    max_drawdown_history DOUBLE[], problem VARCHAR, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE extracted_models (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    entry_name VARCHAR, model_sha256 VARCHAR, model_version VARCHAR, model_version_basis VARCHAR,
    feature_set VARCHAR, feature_set_version VARCHAR, feature_set_basis VARCHAR, activation VARCHAR,
    activation_basis VARCHAR, n_features INTEGER, n_actions INTEGER, obs_dim INTEGER,
    "window" INTEGER, hidden_dims INTEGER[], n_parameters BIGINT, global_step BIGINT,
    train_start TIMESTAMPTZ, train_end TIMESTAMPTZ, weights_path VARCHAR, status VARCHAR,
    reason VARCHAR, inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE gating_scores (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    fitness DOUBLE, profit_factor DOUBLE, consistency DOUBLE, max_drawdown DOUBLE,
    classification VARCHAR, flags VARCHAR[], use_checkpoint BOOLEAN, checkpoint_index INTEGER,
    checkpoint_update INTEGER, thresholds_version VARCHAR, reason VARCHAR, inputs_digest VARCHAR,
    run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE bars (
    symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, ts TIMESTAMPTZ NOT NULL, open DOUBLE,
    high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE, source VARCHAR, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE bar_loads (
    symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, source VARCHAR, status VARCHAR, reason VARCHAR,
    n_fetched INTEGER, n_changed INTEGER, first_ts TIMESTAMPTZ, last_ts TIMESTAMPTZ,
    fetched_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE evaluations (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    as_of TIMESTAMPTZ NOT NULL, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE backtest_results (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    as_of TIMESTAMPTZ, start_ts TIMESTAMPTZ, end_ts TIMESTAMPTZ, training_overlap VARCHAR,
    n_bars INTEGER, total_return DOUBLE, max_drawdown DOUBLE, sharpe DOUBLE, sortino DOUBLE,
    bars_per_year DOUBLE, win_rate DOUBLE, profit_factor DOUBLE, gross_profit DOUBLE,
    gross_loss DOUBLE, n_trades INTEGER, avg_trade_pnl DOUBLE, exposure DOUBLE, turnover DOUBLE,
    fees DOUBLE, lapsed_orders INTEGER, buy_and_hold_return DOUBLE, excess_return DOUBLE,
    status VARCHAR, reason VARCHAR, model_sha256 VARCHAR, bars_digest VARCHAR,
    settings_digest VARCHAR, code_version VARCHAR, inputs_digest VARCHAR, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE fold_results (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    as_of TIMESTAMPTZ, plan VARCHAR NOT NULL, fold INTEGER NOT NULL, n_folds INTEGER,
    start_ts TIMESTAMPTZ, end_ts TIMESTAMPTZ, training_overlap VARCHAR, n_bars INTEGER,
    total_return DOUBLE, max_drawdown DOUBLE, sharpe DOUBLE, sortino DOUBLE, bars_per_year DOUBLE,
    win_rate DOUBLE, profit_factor DOUBLE, gross_profit DOUBLE, gross_loss DOUBLE, n_trades INTEGER,
    avg_trade_pnl DOUBLE, exposure DOUBLE, turnover DOUBLE, fees DOUBLE, lapsed_orders INTEGER,
    buy_and_hold_return DOUBLE, excess_return DOUBLE, status VARCHAR, reason VARCHAR,
    model_sha256 VARCHAR, bars_digest VARCHAR, settings_digest VARCHAR, code_version VARCHAR,
    inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE equity_curves (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    as_of TIMESTAMPTZ, plan VARCHAR NOT NULL, fold INTEGER NOT NULL, ts TIMESTAMPTZ NOT NULL,
    equity DOUBLE, position DOUBLE, action INTEGER, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE trades (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    as_of TIMESTAMPTZ, plan VARCHAR NOT NULL, fold INTEGER NOT NULL, trade INTEGER NOT NULL,
    entry_ts TIMESTAMPTZ, exit_ts TIMESTAMPTZ, side VARCHAR, quantity DOUBLE, entry_price DOUBLE,
    exit_price DOUBLE, pnl DOUBLE, fees DOUBLE, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE walk_forward_summaries (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL,
    as_of TIMESTAMPTZ, plan VARCHAR NOT NULL, positive_folds INTEGER, n_folds INTEGER,
    n_computed INTEGER, positive_share DOUBLE, sharpe_mean DOUBLE, sharpe_std DOUBLE,
    sharpe_std_expected DOUBLE, sharpe_min DOUBLE, sharpe_max DOUBLE, return_min DOUBLE,
    return_max DOUBLE, return_sum DOUBLE, best_fold_share DOUBLE, consistency_grade VARCHAR,
    stability_grade VARCHAR, profitability_grade VARCHAR, reasons VARCHAR[], folds_digest VARCHAR,
    inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE archive_evidence (
    archive_id VARCHAR NOT NULL, plan VARCHAR NOT NULL, as_of TIMESTAMPTZ, n_models INTEGER,
    n_evaluated INTEGER, n_trials INTEGER, pbo DOUBLE, reasons VARCHAR[], inputs_digest VARCHAR,
    run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE archive_evidence_models (
    archive_id VARCHAR NOT NULL, plan VARCHAR NOT NULL, symbol VARCHAR NOT NULL,
    timeframe VARCHAR NOT NULL, as_of TIMESTAMPTZ, model_as_of TIMESTAMPTZ, bars_per_year DOUBLE,
    sharpe DOUBLE, n_returns INTEGER, skew DOUBLE, kurtosis DOUBLE, sharpe_benchmark DOUBLE, dsr DOUBLE,
    reason VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE deployment_decisions (
    archive_id VARCHAR NOT NULL, symbol VARCHAR NOT NULL, timeframe VARCHAR NOT NULL, plan VARCHAR,
    as_of TIMESTAMPTZ, policy VARCHAR NOT NULL, policy_version VARCHAR, decision VARCHAR NOT NULL,
    reasons VARCHAR[], archive_sha256 VARCHAR, model_sha256 VARCHAR, bars_digest VARCHAR,
    settings_digest VARCHAR, thresholds_version VARCHAR, code_version VARCHAR, folds_digest VARCHAR,
    inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

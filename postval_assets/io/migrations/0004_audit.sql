-- Migration 4: what each decision was made with, so that it can be recomputed and a difference be named.

ALTER TABLE deployment_decisions ADD COLUMN decision_id VARCHAR;

-- Made anew, so that run_id and created_at stay last.
CREATE TABLE gating_scores_with_digests AS
SELECT
    * EXCLUDE (run_id, created_at), CAST(NULL AS VARCHAR) AS claims_digest,
    CAST(NULL AS VARCHAR) AS thresholds_digest, run_id, created_at
FROM gating_scores;
DROP TABLE gating_scores;
ALTER TABLE gating_scores_with_digests RENAME TO gating_scores;
ALTER TABLE gating_scores ALTER COLUMN archive_id SET NOT NULL;
ALTER TABLE gating_scores ALTER COLUMN symbol SET NOT NULL;
ALTER TABLE gating_scores ALTER COLUMN timeframe SET NOT NULL;
ALTER TABLE gating_scores ALTER COLUMN run_id SET NOT NULL;
ALTER TABLE gating_scores ALTER COLUMN created_at SET NOT NULL;

CREATE TABLE recorded_contents (
    kind VARCHAR NOT NULL, digest VARCHAR NOT NULL, content VARCHAR NOT NULL, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE decision_inputs (
    decision_id VARCHAR NOT NULL, input VARCHAR NOT NULL, digest VARCHAR, value VARCHAR, run_id VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE decided_folds (
    folds_digest VARCHAR NOT NULL, plan VARCHAR NOT NULL, fold INTEGER NOT NULL, start_ts TIMESTAMPTZ,
    end_ts TIMESTAMPTZ, training_overlap VARCHAR, n_bars INTEGER, total_return DOUBLE, max_drawdown DOUBLE,
    sharpe DOUBLE, sortino DOUBLE, bars_per_year DOUBLE, win_rate DOUBLE, profit_factor DOUBLE,
    gross_profit DOUBLE, gross_loss DOUBLE, n_trades INTEGER, avg_trade_pnl DOUBLE, exposure DOUBLE,
    turnover DOUBLE, fees DOUBLE, lapsed_orders INTEGER, buy_and_hold_return DOUBLE, excess_return DOUBLE,
    status VARCHAR, reason VARCHAR, model_sha256 VARCHAR, bars_digest VARCHAR, settings_digest VARCHAR,
    code_version VARCHAR, inputs_digest VARCHAR, run_id VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL
);

-- Decisions that are there get the id that the code would have given them (pipeline/decision_rows.py) ...
UPDATE deployment_decisions SET decision_id = substr(sha256(concat_ws(
    '|', archive_id, symbol, timeframe, coalesce(plan, ''), coalesce(CAST(epoch_us(as_of) AS VARCHAR), ''), policy,
    coalesce(inputs_digest, ''), CAST(epoch_us(created_at) AS VARCHAR)
)), 1, 12);

-- ... and the folds that they were made from are kept, where these are still there.
INSERT INTO decided_folds BY NAME
WITH grouped AS (
    SELECT
        archive_id, symbol, timeframe, as_of, plan,
        sha256(string_agg(inputs_digest, ',' ORDER BY fold)) AS folds_digest
    FROM fold_results
    GROUP BY archive_id, symbol, timeframe, as_of, plan
)
SELECT
    g.folds_digest, f.plan, f.fold, f.start_ts, f.end_ts, f.training_overlap, f.n_bars, f.total_return,
    f.max_drawdown, f.sharpe, f.sortino, f.bars_per_year, f.win_rate, f.profit_factor, f.gross_profit,
    f.gross_loss, f.n_trades, f.avg_trade_pnl, f.exposure, f.turnover, f.fees, f.lapsed_orders,
    f.buy_and_hold_return, f.excess_return, f.status, f.reason, f.model_sha256, f.bars_digest,
    f.settings_digest, f.code_version, f.inputs_digest, f.run_id, f.created_at
FROM fold_results AS f
JOIN grouped AS g
    ON g.archive_id = f.archive_id AND g.symbol = f.symbol AND g.timeframe = f.timeframe AND g.as_of = f.as_of
    AND g.plan = f.plan
WHERE g.folds_digest IN (SELECT folds_digest FROM deployment_decisions)
QUALIFY row_number() OVER (PARTITION BY g.folds_digest, f.fold ORDER BY f.archive_id, f.symbol) = 1;

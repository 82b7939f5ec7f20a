-- The views for people, made anew at every migration.

CREATE OR REPLACE VIEW latest_decisions AS
WITH newest_archives AS (
    SELECT symbol, max(archive_id) AS archive_id FROM deployment_decisions GROUP BY symbol
),
newest_instants AS (
    -- max() passes over NULL: a model that was never evaluated keeps NULL, and only such a one
    SELECT d.archive_id, d.symbol, d.timeframe, max(d.as_of) AS as_of
    FROM deployment_decisions AS d
    JOIN newest_archives AS n ON n.symbol = d.symbol AND n.archive_id = d.archive_id
    GROUP BY d.archive_id, d.symbol, d.timeframe
),
newest_rows AS (
    SELECT d.*, list_position(['DROP', 'RETRAIN', 'PAPER', 'LIVE'], d.decision) AS rank
    FROM deployment_decisions AS d
    JOIN newest_instants AS e
        ON e.archive_id = d.archive_id AND e.symbol = d.symbol AND e.timeframe = d.timeframe
        AND e.as_of IS NOT DISTINCT FROM d.as_of
    QUALIFY row_number() OVER (
        PARTITION BY d.symbol, d.timeframe, d.plan, d.policy
        ORDER BY d.revision DESC NULLS LAST, d.created_at DESC, d.run_id DESC
    ) = 1
),
models AS (
    SELECT
        symbol, timeframe, archive_id, as_of,
        arg_min(decision, rank) FILTER (WHERE policy = 'standard') AS decision,
        arg_min(decision, rank) FILTER (WHERE policy = 'evidence') AS decision_evidence,
        list(DISTINCT plan ORDER BY plan) FILTER (WHERE plan IS NOT NULL) AS plans,
        -- as the decisions have them, the deciding one first; those of the worst plan before those of the others
        flatten(list(reasons ORDER BY rank, plan) FILTER (WHERE policy = 'standard' AND reasons IS NOT NULL))
            AS reasons,
        flatten(list(reasons ORDER BY rank, plan) FILTER (WHERE policy = 'evidence' AND reasons IS NOT NULL))
            AS reasons_evidence,
        max(created_at) AS decided_at,
        -- of the decision that counts: `postval replay` takes it
        first(decision_id ORDER BY rank, plan) FILTER (WHERE policy = 'standard') AS decision_id
    FROM newest_rows
    GROUP BY symbol, timeframe, archive_id, as_of
)
SELECT
    m.symbol, m.timeframe, m.archive_id, m.as_of, m.decision, m.decision_evidence,
    coalesce(m.plans, []) AS plans,
    coalesce(list_filter(m.reasons, lambda r, i: list_position(m.reasons, r) = i), []) AS reasons,
    coalesce(list_filter(m.reasons_evidence, lambda r, i: list_position(m.reasons_evidence, r) = i), [])
        AS reasons_evidence,
    g.classification, m.decided_at, m.decision_id
FROM models AS m
LEFT JOIN gating_scores AS g
    ON g.archive_id = m.archive_id AND g.symbol = m.symbol AND g.timeframe = m.timeframe
ORDER BY m.symbol, m.timeframe;

CREATE OR REPLACE VIEW leaderboard AS
WITH newest_rows AS (
    SELECT * FROM deployment_decisions
    QUALIFY row_number() OVER (
        PARTITION BY archive_id, symbol, timeframe, plan, policy
        ORDER BY as_of DESC NULLS LAST, revision DESC NULLS LAST, created_at DESC, run_id DESC
    ) = 1
)
SELECT
    s.symbol, s.timeframe, s.archive_id, s.plan, s.as_of, s.decision, e.decision AS decision_evidence, s.reasons,
    w.sharpe_mean, w.sharpe_std, w.sharpe_std_expected, w.positive_folds, w.n_folds, w.n_computed,
    w.positive_share, w.return_sum, w.best_fold_share, w.consistency_grade, w.stability_grade,
    w.profitability_grade, w.evidence, w.sharpe, w.bootstrap_low, w.bootstrap_high, w.p_value, w.p_value_archive,
    w.n_trials, w.min_track_record_days, w.consistency_ratio, w.null_percentile, w.break_even_cost_bps,
    w.lag_return, g.classification, g.fitness AS training_fitness,
    g.profit_factor AS training_profit_factor, g.consistency AS training_consistency,
    g.max_drawdown AS training_max_drawdown, s.created_at AS decided_at, s.decision_id
FROM newest_rows AS s
LEFT JOIN newest_rows AS e
    ON e.policy = 'evidence' AND e.archive_id = s.archive_id AND e.symbol = s.symbol
    AND e.timeframe = s.timeframe AND e.plan IS NOT DISTINCT FROM s.plan
    AND e.as_of IS NOT DISTINCT FROM s.as_of
LEFT JOIN walk_forward_summaries AS w
    ON w.archive_id = s.archive_id AND w.symbol = s.symbol AND w.timeframe = s.timeframe
    AND w.plan = s.plan AND w.as_of = s.as_of
LEFT JOIN gating_scores AS g
    ON g.archive_id = s.archive_id AND g.symbol = s.symbol AND g.timeframe = s.timeframe
WHERE s.policy = 'standard'
ORDER BY
    list_position(['LIVE', 'PAPER', 'RETRAIN', 'DROP'], s.decision), w.sharpe_mean DESC NULLS LAST,
    s.symbol, s.timeframe, s.archive_id DESC, s.plan;

CREATE OR REPLACE VIEW symbol_history AS
WITH newest_rows AS (
    SELECT * FROM deployment_decisions
    QUALIFY row_number() OVER (
        PARTITION BY archive_id, symbol, timeframe, plan, as_of, policy
        ORDER BY revision DESC NULLS LAST, created_at DESC, run_id DESC
    ) = 1
)
SELECT
    s.symbol, s.archive_id, s.timeframe, s.plan, s.as_of, s.decision, e.decision AS decision_evidence,
    w.sharpe_mean, w.positive_share, w.evidence, s.created_at AS decided_at, s.decision_id
FROM newest_rows AS s
LEFT JOIN newest_rows AS e
    ON e.policy = 'evidence' AND e.archive_id = s.archive_id AND e.symbol = s.symbol
    AND e.timeframe = s.timeframe AND e.plan IS NOT DISTINCT FROM s.plan
    AND e.as_of IS NOT DISTINCT FROM s.as_of
LEFT JOIN walk_forward_summaries AS w
    ON w.archive_id = s.archive_id AND w.symbol = s.symbol AND w.timeframe = s.timeframe
    AND w.plan = s.plan AND w.as_of = s.as_of
WHERE s.policy = 'standard'
ORDER BY s.symbol, s.archive_id, s.timeframe, s.plan, s.as_of NULLS FIRST;

-- The same question up to some instant is pipeline/instants.py's.
CREATE OR REPLACE VIEW newest_evaluations AS
SELECT
    e.archive_id, e.symbol, e.timeframe,
    coalesce(max(e.as_of) FILTER (WHERE f.has_folds), max(e.as_of)) AS as_of,
    coalesce(bool_or(f.has_folds), false) AS has_folds
FROM evaluations AS e
LEFT JOIN (SELECT DISTINCT archive_id, symbol, timeframe, as_of, true AS has_folds FROM fold_results) AS f
    ON f.archive_id = e.archive_id AND f.symbol = e.symbol AND f.timeframe = e.timeframe AND f.as_of = e.as_of
GROUP BY e.archive_id, e.symbol, e.timeframe;

CREATE OR REPLACE VIEW published_at AS
SELECT max(published_at) AS published_at FROM publication;

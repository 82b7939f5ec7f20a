"""The text of docs/features.md, with places for what is computed.

Here: words that hold for all reference sets, and for what is asked of every model. Not here: what is filled in
(reference_pages.py).
"""

from __future__ import annotations

from string import Template

FEATURES_PAGE = Template(
    """\
# Features of the reference sets

Made by `$command` from the code; change the code, not this page.

$n_features market features, in the order in which an observation has them. They are standard formulas of the families
and counts that the model versions have; the original trainer's formulas are not public. So a checkpoint that neither
names one of these sets nor lists these names is only ASSUMED to use them. [plugins.md](plugins.md) says how to bring
your own.

| set | market features | account features | features |
|---|---|---|---|
$sets

The longest look-back is $look_back bars. A value at bar t is a function of exactly its look-back bars, bar t included,
so it does not change with the length of the history.

## Notation

- O, H, L, C, V: open, high, low, close, volume of bar t. X[k]: X at k bars before t.
- sum_n, mean_n, max_n, min_n: over the bars t-n+1 .. t. sd_n: population standard deviation.
- TP = (H + L + C) / 3. TR = max(H, C[1]) - min(L, C[1]). r = ln(C / C[1]).
- ema_n: exponential average with weights (1 - 2/(n+1))^k; wilder_n: with (1 - 1/n)^k. Each is over exactly the last
  4n bars, with weights that sum to 1.
- A quotient with denominator 0 is 0. A spread of at most $flat of the price counts as 0.
- An unknown volume (NULL) within the look-back makes a volume feature 0.
- Regimes: a filter over three hidden states ($regimes) of the standardised return z = r / sqrt(mean_50(r^2)), clipped
  to -5 .. 5. In a state z is normal, with means MEANS = $means and deviations SPREADS = $spreads. A state stays for the
  next bar with probability $stay, else it becomes one of the other two, equally likely. The filter of a bar starts from
  equal probabilities and takes the last $filter_bars observations: p is the probability now, q that of the next bar.
  Nothing is fitted.
- Every value is clipped to its range.

$families

## Flat prices, no volume, gaps and borders

A bar's neighbour is the bar before it in the source, however long ago that was. Nothing is filled in, nothing is
skipped, and no feature knows of sessions: over a night or a weekend a return is the return from one bar to the next,
and windows count bars, not hours. Only `bar_gap` sees how much time has passed.

The numbers below were measured by running the features on small constructed bars of one hour, with the same moves over
and over; they say how a feature reacts, and depend on those moves.

- Flat prices: no price ever moved, and there was volume.
- No volume: prices move, and no bar has any volume / this one bar has none. An unknown volume (NULL) makes it 0.
- Border: from the last bar of a session to the first two of the next, 18 hours later, with no gap in price.
- Gap: the same with all prices $gap higher from then on: the last bar before, the first two after, and the number of
  bars that the gap is felt in.
- "same": no other value than without it. "clock": the time of the bar alone decides.

| feature | flat prices | no volume | border | gap | felt in |
|---|---|---|---|---|---|
$behaviours

What the numbers do not say:

$notes

## What is tested of every model

Whenever folds are computed, each of their models is asked whether its past depends on its future: at two bars of the
evaluation, and at the last one before the longest wait where there are waits, all later bars are replaced by noise.

- The features are computed again over the same stretch of bars. Every value up to that bar must be the same to the last
  bit, for all bars that an observation reads.
- The network is run over both futures beside the evaluation, with the same weights and the same way of summing, and
  the engine trades both, from $lane_bars bars before on. Every action up to that bar must be the same. Where actions
  differ and the best logit leads by less than $tie, that is a tie: counted (`n_ties`), not held against the model.

The places follow from the model's digest, and the second is chosen so that no clock-aligned longer bar ends at both.
Table `policy_causality` has what was found, a row for each model and `as_of`:

| status | |
|---|---|
| `CAUSAL` | nothing differed |
| `LOOKS_AHEAD` | something did; `feature` and `reason` say which, at which bar, and both values |
| `NOT_CHECKED` | no block could be evaluated, or the set broke another promise; `reason` says which |

A model that looks ahead becomes REJECTED in `extracted_models`, its folds that were asked for NOT_EVALUATED, and its
decision DROP. Where only an action differs, `feature` is NULL. Other models go on. What the check of plug-ins
([plugins.md](plugins.md)), which comes before, sees look ahead is the same finding, with `n_instants` 0.

The model stays REJECTED when its archive is extracted again, as long as weights, name and version of the set, and
postval's own code are the same; a mended set with another version is tried anew.

A set may dislike bars that never were, and raise or give NaN. Then its values are held against those of the bars up to
that place alone, but for rounding, and the reason of the row says so.

What it cannot find: a leak that shows at none of two or three bars; one that takes the future from elsewhere than the
bars; times of later bars (these stay as they are; the check of plug-ins changes them too); and, in actions, one that
changes logits and not the choice among 3 or 7.

## Account ($n_account)

Computed by the engine from the account at the close of bar t, the same in every bar of the window
([rules.md](rules.md), 3). They follow the market features: $account.
"""
)

"""The oracle's loop against fills and curves worked out by hand: only a right one can judge the engine."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings

from postval_assets_tests.core.market_cases import (
    COSTLY_LONG,
    COSTLY_SHORT,
    FREE_LONG,
    FREE_SHORT,
    MARKETS,
    ONE_BUY,
    SIZES,
    Case,
    cases,
    play,
    run_case,
    seeded_case,
)
from postval_assets_tests.core.plain_loop import NEUTRAL_ACCOUNT, PlainRules, run_plain

HOLD, BUY_25, BUY_50, BUY_75, SELL_25, SELL_50, SELL_75 = range(7)


def close_to(value: object) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-9)


class TestOrdersAndFills:
    def test_a_buy_is_sized_at_the_close_filled_at_the_next_open_and_closed_at_the_last_close(self) -> None:
        run = play(ONE_BUY, [BUY_50, HOLD], COSTLY_LONG)
        # unit = 100000 * 0.70 * 0.15 = 10500; X = 0.5 * 10500 = 5250; dq = 5250 / 100 = 52.5
        # fill = 101 * 1.01 = 102.01; value 5355.525; fee 53.55525; cash 94590.91975
        # closing: 104 * 0.99 = 102.96; value 5405.4; fee 54.054; cash 99942.26575
        assert run.fills == [
            (1, 52.5, close_to(102.01), close_to(53.55525)),
            (2, -52.5, close_to(102.96), close_to(54.054)),
        ]
        assert run.equity == close_to([100_000.0, 94590.91975 + 52.5 * 102.0, 99942.26575])
        assert run.position == [0.0, 52.5, 0.0]
        assert run.actions == [BUY_50, HOLD]
        assert run.fees == close_to(107.60925)
        assert run.traded_value == close_to(10760.925)
        assert run.status == "OK"
        (trade,) = run.trades
        assert (trade.side, trade.entry_index, trade.exit_index, trade.quantity) == ("LONG", 1, 2, 52.5)
        assert trade.entry_price == close_to(102.01)
        assert trade.exit_price == close_to(102.96)
        assert trade.pnl == close_to(-57.73425)
        assert trade.fees == close_to(107.60925)

    def test_consecutive_buys_scale_in_up_to_max_position(self) -> None:
        # 7875, 15750, then only 20000 - 15750 = 4250 more, then nothing: 20 % of 100000 is held.
        run = play([(100.0, 100.0)] * 7, [BUY_75] * 6, FREE_LONG)
        assert run.position == close_to([0.0, 78.75, 157.5, 200.0, 200.0, 200.0, 0.0])
        assert [f[0] for f in run.fills] == [1, 2, 3, 6]
        (trade,) = run.trades
        assert trade.quantity == close_to(200.0)

    def test_an_entry_price_is_weighted_by_quantity(self) -> None:
        # 52.5 at 100; then E = 100000 + 52.5 * 20 = 101050, unit 10610.25, X 5305.125, dq 44.209375 at 120;
        # closing at 120. Mean entry (5250 + 5305.125) / 96.709375.
        bars = [(100.0, 100.0), (100.0, 120.0), (120.0, 120.0), (120.0, 120.0)]
        (trade,) = play(bars, [BUY_50, BUY_50, HOLD], FREE_LONG).trades
        assert trade.quantity == close_to(96.709375)
        assert trade.entry_price == close_to(10555.125 / 96.709375)
        assert trade.exit_price == close_to(120.0)
        assert trade.pnl == close_to(1050.0)

    def test_a_position_that_grew_past_the_cap_is_neither_bought_nor_cut(self) -> None:
        # 157.5 bought at 100; at 200 V = 31500 of E = 115750, above 20 %.
        bars = [(100.0, 100.0)] * 2 + [(100.0, 200.0)] + [(200.0, 200.0)] * 2
        run = play(bars, [BUY_75, BUY_75, BUY_75, HOLD], FREE_LONG)
        assert run.position == close_to([0.0, 78.75, 157.5, 157.5, 0.0])

    def test_a_long_only_position_is_sold_in_parts_and_then_exactly(self) -> None:
        # 78.75; sell 2625 / 100 = 26.25; sell min(5250, V = 5250): all of it; a further sale has nothing.
        run = play([(100.0, 100.0)] * 6, [BUY_75, SELL_25, SELL_50, SELL_75, HOLD], FREE_LONG)
        assert run.position == [0.0, 78.75, 52.5, 0.0, 0.0, 0.0]
        assert [f[1] for f in run.fills] == [78.75, -26.25, -52.5]
        (trade,) = run.trades
        assert (trade.entry_index, trade.exit_index, trade.quantity, trade.pnl) == (1, 3, 78.75, 0.0)
        assert run.lapsed_orders == 0

    @pytest.mark.parametrize(
        # In floats 0.25 * 10500 / 0.7 * 0.3 / 0.3 is less than what was bought, and of 1.3 and 0.7 more.
        ("bought", "sold"),
        [(0.7, 0.3), (1.3, 0.7), (1.3, 1.5), (0.000123, 0.000123), (97_331.17, 97_331.17)],
    )
    def test_selling_everything_leaves_exactly_nothing(self, bought: float, sold: float) -> None:
        bars = [(bought, bought), (bought, sold), (sold, sold), (sold, sold)]
        run = play(bars, [BUY_25, SELL_75, HOLD], COSTLY_LONG)
        assert run.position[1] > 0.0
        assert run.position[2] == 0.0
        assert run.fills[1][1] == -run.fills[0][1]
        assert len(run.fills) == 2

    def test_a_short_earns_when_the_price_falls(self) -> None:
        bars = [(100.0, 100.0), (100.0, 80.0), (90.0, 70.0)]
        run = play(bars, [SELL_50, HOLD], COSTLY_SHORT)
        # sold 52.5 at 99: 5197.5 less 51.975: cash 105145.525; bought back at 70.7: 3711.75 and 37.1175.
        assert run.equity == close_to([100_000.0, 105145.525 - 4200.0, 101396.6575])
        assert run.position == [0.0, -52.5, 0.0]
        (trade,) = run.trades
        assert (trade.side, trade.quantity) == ("SHORT", 52.5)
        assert trade.entry_price == close_to(99.0)
        assert trade.exit_price == close_to(70.7)
        assert trade.pnl == close_to(1396.6575)
        assert trade.fees == close_to(51.975 + 37.1175)

    def test_consecutive_sales_scale_into_a_short_up_to_max_position(self) -> None:
        run = play([(100.0, 100.0)] * 6, [SELL_75] * 5, FREE_SHORT)
        assert run.position == close_to([0.0, -78.75, -157.5, -200.0, -200.0, 0.0])

    def test_a_long_only_asset_is_never_sold_short(self) -> None:
        run = play([(100.0, 100.0)] * 4, [SELL_75] * 3, FREE_LONG)
        assert run.fills == []
        assert run.status == "NO_TRADES"

    def test_an_order_across_zero_ends_one_trip_and_opens_the_next_with_the_fee_split_by_quantity(
        self,
    ) -> None:
        rules = PlainRules(fee_rate=0.01, slippage=0.0, long_only=False)
        bars = [(100.0, 100.0), (100.0, 100.0), (110.0, 110.0), (100.0, 100.0)]
        run = play(bars, [BUY_25, SELL_75, HOLD], rules)
        # 26.25 at 100, fee 26.25: E = 99973.75; Y = 0.75 * 0.105 * E = 7872.9328125; sold at 110: 78.7293..:
        # 26.25 of it closes (fee 28.875), 52.479328125 opens (fee 57.7272609375) and is closed at 100 (fee
        # 52.479328125).
        assert run.fills[1] == (2, close_to(-78.729328125), 110.0, close_to(86.6022609375))
        assert run.position == close_to([0.0, 26.25, -52.479328125, 0.0])
        long, short = run.trades
        assert (long.side, long.entry_index, long.exit_index) == ("LONG", 1, 2)
        assert (long.quantity, long.exit_price) == close_to((26.25, 110.0))
        assert long.fees == close_to(26.25 + 28.875)
        assert long.pnl == close_to(207.375)
        assert (short.side, short.entry_index, short.exit_index) == ("SHORT", 2, 3)
        assert (short.quantity, short.entry_price, short.exit_price) == close_to((52.479328125, 110.0, 100.0))
        assert short.fees == close_to(57.7272609375 + 52.479328125)
        assert short.pnl == close_to(414.5866921875)
        assert run.equity[-1] == close_to(100621.9616921875)

    def test_a_short_is_crossed_by_a_buy_as_well(self) -> None:
        # Free: short 26.25, then buy 78.75: 52.5 long.
        run = play([(100.0, 100.0)] * 4, [SELL_25, BUY_75, HOLD], FREE_SHORT)
        assert run.position == close_to([0.0, -26.25, 52.5, 0.0])
        assert [t.side for t in run.trades] == ["SHORT", "LONG"]

    def test_orders_under_the_minimum_are_dropped_and_are_no_lapsed_orders(self) -> None:
        # Capital 19: unit 1.995; half of it is 0.9975 (dropped), three quarters 1.49625.
        rules = PlainRules(fee_rate=0.0, slippage=0.0, long_only=True, capital=19.0)
        run = play([(1.0, 1.0)] * 3, [BUY_50, HOLD], rules, volume=[5.0, 0.0, 5.0])
        assert (run.fills, run.lapsed_orders, run.status) == ([], 0, "NO_TRADES")
        run = play([(1.0, 1.0)] * 3, [BUY_75, HOLD], rules)
        assert run.fills[0] == (1, close_to(1.49625), 1.0, 0.0)

    def test_an_order_of_exactly_the_minimum_is_placed(self) -> None:
        at = PlainRules(fee_rate=0.0, slippage=0.0, long_only=True, min_order_usd=5250.0)
        above = PlainRules(fee_rate=0.0, slippage=0.0, long_only=True, min_order_usd=5250.01)
        assert len(play([(100.0, 100.0)] * 3, [BUY_50, HOLD], at).fills) == 2
        assert play([(100.0, 100.0)] * 3, [BUY_50, HOLD], above).fills == []

    def test_a_remainder_under_the_minimum_stays_until_the_block_closes(self) -> None:
        # V = 0.5 after the fall to 1 / 5250 of the price: no sale of it reaches one dollar.
        bars = [(100.0, 100.0), (100.0, 0.0095), (0.0095, 0.0095), (0.0095, 0.0095)]
        run = play(bars, [BUY_50, SELL_75, SELL_75], FREE_LONG)
        assert run.position == [0.0, 52.5, 52.5, 0.0]
        assert run.fills[-1][0] == 3

    def test_ties_go_to_the_lowest_action(self) -> None:
        def policy(t: int, account: object) -> list[float]:
            return [0.0, 2.0, 2.0]

        prices = [100.0] * 3
        run = run_plain(prices, prices, prices, prices, prices, 0, 3, SIZES[3], policy, FREE_SHORT)
        assert run.actions == [1, 1]
        assert run.logit_gaps == [0.0, 0.0]


class TestTimes:
    def test_the_last_decision_is_filled_at_the_last_open_and_closed_at_that_close(self) -> None:
        run = play([(100.0, 100.0), (100.0, 100.0), (100.0, 110.0)], [HOLD, BUY_50], FREE_LONG)
        assert [(f[0], f[1], f[2]) for f in run.fills] == [(2, 52.5, 100.0), (2, -52.5, 110.0)]
        assert run.equity == close_to([100_000.0, 100_000.0, 100_525.0])
        assert run.position == [0.0, 0.0, 0.0]
        (trade,) = run.trades
        assert (trade.entry_index, trade.exit_index) == (2, 2)

    def test_a_block_inside_the_bars_uses_its_own_bars_only(self) -> None:
        prices = [1.0, 1.0, 100.0, 110.0, 120.0, 1e9]
        asked: list[int] = []

        def policy(t: int, account: object) -> list[float]:
            asked.append(t)
            return [0.0, 1.0, 0.0]

        run = run_plain(prices, prices, prices, prices, [0.0] * 6, 2, 5, SIZES[3], policy, FREE_LONG)
        assert asked == [2, 3]
        assert run.equity == [100_000.0] * 3
        assert run.lapsed_orders == 2

    def test_an_order_lapses_at_a_bar_without_volume_and_is_not_kept(self) -> None:
        run = play([(100.0, 100.0)] * 4, [BUY_50, HOLD, HOLD], FREE_LONG, volume=[5.0, 0.0, 5.0, 5.0])
        assert (run.lapsed_orders, run.fills, run.status) == (1, [], "NO_TRADES")
        assert run.equity == [100_000.0] * 4

    def test_only_the_volume_of_the_filling_bar_counts(self) -> None:
        run = play([(100.0, 100.0)] * 4, [BUY_50, HOLD, HOLD], FREE_LONG, volume=[0.0, 5.0, 0.0, 0.0])
        assert run.lapsed_orders == 0
        # The closing of the block ignores volume.
        assert [f[0] for f in run.fills] == [1, 3]

    def test_an_order_at_the_last_open_lapses_too(self) -> None:
        run = play([(100.0, 100.0)] * 3, [HOLD, BUY_50], FREE_LONG, volume=[5.0, 5.0, 0.0])
        assert (run.lapsed_orders, run.status) == (1, "NO_TRADES")

    def test_unknown_volume_fills(self) -> None:
        run = play([(100.0, 100.0)] * 3, [BUY_50, HOLD], FREE_LONG, volume=[math.nan] * 3)
        assert (run.lapsed_orders, len(run.fills)) == (0, 2)

    def test_zero_volume_fills_where_zero_means_unknown(self) -> None:
        rules = PlainRules(fee_rate=0.0, slippage=0.0, long_only=True, zero_volume_fills=True)
        run = play([(100.0, 100.0)] * 3, [BUY_50, HOLD], rules, volume=[0.0] * 3)
        assert (run.lapsed_orders, len(run.fills)) == (0, 2)

    def test_no_order_cannot_lapse(self) -> None:
        run = play([(100.0, 100.0)] * 3, [SELL_50, HOLD], FREE_LONG, volume=[0.0] * 3)
        assert run.lapsed_orders == 0


class TestEarlyEnds:
    def test_ruin_ends_the_block_at_zero_with_the_books_closed(self) -> None:
        bars = [(100.0, 100.0), (100.0, 1400.0), (1.0, 1.0), (1.0, 1.0)]
        run = play(bars, [SELL_75, HOLD, HOLD], COSTLY_SHORT)
        # 78.75 sold at 99: 7796.25, fee 77.9625; E = 107718.2875 - 110250 < 0; bought back at 1414:
        # 111352.5, fee 1113.525.
        assert run.status == "RUINED"
        assert run.equity == [100_000.0, 0.0]
        assert run.position == [0.0, 0.0]
        assert run.actions == [SELL_75]
        assert len(run.account_rows) == 1
        (trade,) = run.trades
        assert (trade.side, trade.entry_index, trade.exit_index) == ("SHORT", 1, 1)
        assert trade.pnl == close_to(-104747.7375)
        assert run.fees == close_to(77.9625 + 1113.525)
        assert run.traded_value == close_to(7796.25 + 111352.5)

    def test_equity_of_exactly_nothing_is_ruin(self) -> None:
        # 200 short at 100: cash 120000; at 600 nothing is left.
        bars = [(100.0, 100.0)] * 3 + [(100.0, 600.0)] + [(600.0, 600.0)] * 2
        run = play(bars, [SELL_75, SELL_75, SELL_75, HOLD, HOLD], FREE_SHORT)
        assert run.equity == close_to([100_000.0, 100_000.0, 100_000.0, 0.0])
        assert (run.status, run.equity[-1]) == ("RUINED", 0.0)

    def test_what_the_closing_costs_can_ruin(self) -> None:
        # At 1367 E = 107718.2875 - 78.75 * 1367 = 67.0375; buying back at 1380.67 takes more than that.
        bars = [(100.0, 100.0), (100.0, 1367.0), (1367.0, 1367.0)]
        run = play(bars, [SELL_75, HOLD], COSTLY_SHORT)
        assert run.equity == close_to([100_000.0, 67.0375, 0.0])
        assert run.status == "RUINED"

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_one_logit_that_is_no_number_breaks_the_policy(self, bad: float) -> None:
        closes = [100.0, 100.0, 120.0, 120.0, 120.0]

        def policy(t: int, account: object) -> list[float]:
            return [0.0, 1.0, bad if t == 2 else 0.0]

        run = run_plain(closes, closes, closes, closes, closes, 0, 5, SIZES[3], policy, FREE_LONG)
        # 52.5 at 100; at t = 1 another 52.5, filled at 120: E = 100000 + 52.5 * 20.
        assert run.status == "BROKEN_POLICY"
        assert run.equity == close_to([100_000.0, 100_000.0, 101_050.0])
        assert run.position == close_to([0.0, 52.5, 105.0])
        assert run.actions == [1, 1]
        assert len(run.account_rows) == 3
        assert run.trades == []

    def test_no_logits_at_all_break_the_policy(self) -> None:
        run = play([(100.0, 100.0)] * 3, [None, HOLD], FREE_LONG)
        assert (run.status, run.equity, run.actions) == ("BROKEN_POLICY", [100_000.0], [])


class TestAccountFeatures:
    def test_before_anything_happened(self) -> None:
        assert play(ONE_BUY, [BUY_50, HOLD], COSTLY_LONG).account_rows[0] == (0.0, 0.5, 0.0, 0.0, 1.0, 0.0)

    def test_with_a_position(self) -> None:
        # E = 94590.91975 + 5355 = 99945.91975, below the first peak of 100000.
        row = play(ONE_BUY, [BUY_50, HOLD], COSTLY_LONG).account_rows[1]
        assert row == close_to(
            (
                math.tanh(-0.005408025),
                0.5,
                0.0005408025,
                5355.0 / 99945.91975 / 0.20,
                94590.91975 / 99945.91975,
                math.log10(0.9994591975),
            )
        )

    def test_win_rate_and_drawdown_over_a_winner_and_a_loser(self) -> None:
        bars = [
            (100.0, 100.0),
            (100.0, 100.0),
            (200.0, 200.0),
            (200.0, 100.0),
            (100.0, 100.0),
            (100.0, 100.0),
        ]
        run = play(bars, [BUY_50, SELL_75, BUY_25, SELL_75, HOLD], FREE_LONG)
        # 52.5 from 100 to 200: E = 105250. Then 2762.8125 / 200 = 13.8140625 bought, which lose half.
        assert run.account_rows[2] == close_to((math.tanh(0.525), 1.0, 0.0, 0.0, 1.0, math.log10(1.0525)))
        e = 105_250.0 - 1381.40625
        assert run.account_rows[3] == close_to(
            (
                math.tanh(0.386859375),
                1.0,
                0.013125,
                1381.40625 / e / 0.20,
                102_487.1875 / e,
                math.log10(1.0386859375),
            )
        )
        assert run.account_rows[4] == close_to(
            (math.tanh(0.386859375), 0.5, 0.013125, 0.0, 1.0, math.log10(1.0386859375))
        )

    def test_a_trip_that_earned_exactly_nothing_is_not_won(self) -> None:
        run = play([(100.0, 100.0)] * 4, [BUY_50, SELL_75, HOLD], FREE_LONG)
        assert run.account_rows[2] == (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def test_a_short_has_a_positive_position_and_no_more_than_all_available(self) -> None:
        run = play([(100.0, 100.0)] * 3, [SELL_50, HOLD], FREE_SHORT)
        # V = -5250, cash 105250: above 1, clipped.
        assert run.account_rows[1] == close_to((0.0, 0.5, 0.0, 5250.0 / 100_000.0 / 0.20, 1.0, 0.0))

    def test_negative_cash_is_shown_as_nothing_available(self) -> None:
        # 78.75 bought at an open of 1300: 102375, cash -2375; back at 100 E = 5500.
        run = play([(100.0, 100.0), (1300.0, 100.0), (100.0, 100.0)], [BUY_75, HOLD], FREE_LONG)
        assert run.account_rows[1] == close_to(
            (math.tanh(-9.45), 0.5, 0.945, 7875.0 / 5500.0 / 0.20, 0.0, math.log10(0.055))
        )

    def test_neutral_features_never_change(self) -> None:
        rules = PlainRules(fee_rate=0.01, slippage=0.01, long_only=True, neutral_account=True)
        run = play(ONE_BUY, [BUY_50, HOLD], rules)
        assert run.account_rows == [NEUTRAL_ACCOUNT] * 2 == [(0.0, 0.5, 0.0, 0.0, 0.70, 0.0)] * 2
        assert run.equity == play(ONE_BUY, [BUY_50, HOLD], COSTLY_LONG).equity


class TestAnyMarket:
    @given(cases())
    @settings(max_examples=150, deadline=None)
    def test_the_books_add_up(self, case: Case) -> None:
        run = run_case(case)
        n = len(run.equity)
        assert n == len(run.position)
        assert run.equity[0] == case.rules.capital or n == 1
        assert len(run.actions) == len(run.logit_gaps) <= len(run.account_rows)
        assert sum(f[3] for f in run.fills) == close_to(run.fees)
        assert sum(abs(f[1]) * f[2] for f in run.fills) == close_to(run.traded_value)
        if case.rules.long_only:
            assert min(run.position) >= 0.0
        for row in run.account_rows:
            assert 0.0 <= row[1] <= 1.0
            assert 0.0 <= row[2] <= 1.0
            assert row[3] >= 0.0
            assert 0.0 <= row[4] <= 1.0

        if run.status in ("OK", "NO_TRADES"):
            assert n == case.b - case.a == len(run.actions) + 1
            assert (run.status == "NO_TRADES") == (not run.fills)
            cash = case.rules.capital - math.fsum(dq * price + fee for _, dq, price, fee in run.fills)
            assert run.equity[-1] == pytest.approx(cash, rel=1e-9)
            earned = math.fsum(trade.pnl for trade in run.trades)
            assert run.equity[-1] - case.rules.capital == pytest.approx(earned, rel=1e-9, abs=1e-9 * cash)
        if run.status == "RUINED":
            assert run.equity[-1] == 0.0
            assert min(run.equity[:-1]) > 0.0
        if run.status != "BROKEN_POLICY":
            assert run.position[-1] == 0.0
            assert math.fsum(trade.fees for trade in run.trades) == close_to(run.fees)

    @given(cases(breaking=False))
    @settings(max_examples=75, deadline=None)
    def test_no_buy_is_decided_beyond_the_cap_and_no_sale_beyond_what_may_be_held(self, case: Case) -> None:
        run = run_case(case)
        last = case.a + len(run.equity) - 1
        held = 0.0
        for t, dq, _, _ in run.fills:
            # The closing of the block is no order; an order that sells everything is within any limit.
            if not (t == last and dq == -held):
                limit = case.rules.max_position * run.equity[t - 1 - case.a] * (1.0 + 1e-9)
                after = (held + dq) * float(case.market.close[t - 1])
                lowest = 0.0 if case.rules.long_only else -limit
                assert after <= limit if dq > 0.0 else after >= lowest
            held += dq
        assert held == run.position[-1]

    def test_the_generated_cases_reach_every_rule(self) -> None:
        seen: Counter[str] = Counter()
        for seed in range(400):
            case = seeded_case(seed)
            run = run_case(case)
            sides = {trade.side for trade in run.trades}
            seen[run.status] += 1
            seen.update(sides)
            seen["market " + case.market.name] += 1
            seen["lapsed"] += run.lapsed_orders > 0
            seen["crossed zero"] += any(
                x.exit_index == y.entry_index and x.side != y.side for x, y in pairwise(run.trades)
            )
            seen["scaled in"] += any(y > x > 0.0 for x, y in pairwise(run.position))
        for what in ("OK", "NO_TRADES", "RUINED", "BROKEN_POLICY", "LONG", "SHORT", "lapsed", "crossed zero"):
            assert seen[what] >= 5, f"{what}: {seen[what]} of 400 cases"
        assert seen["scaled in"] >= 50
        assert sum(name.startswith("market ") for name in seen) == len(MARKETS)

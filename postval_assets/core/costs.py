"""What trading costs and what is allowed, by asset class (docs/rules.md, section 3).

Here: the numbers of execution, as one frozen object. Not here: their application (engine.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from postval_assets.core.instruments import AssetClass

BPS = 1e-4


@dataclass(frozen=True)
class TradingCosts:
    """What a fill costs.

    Attributes:
        fee_rate: fee as a fraction of traded value.
        slippage: as a fraction of the price.
    """

    fee_rate: float
    slippage: float

    @property
    def bps(self) -> float:
        """Cost of one side, fee and slippage together, in basis points."""
        return (self.fee_rate + self.slippage) / BPS

    def at(self, bps: float) -> TradingCosts:
        """Costs of that many basis points a side, fee and slippage in the same proportion (slippage where none is)."""
        if self.bps == 0.0:
            return TradingCosts(0.0, bps * BPS)
        scale = bps / self.bps
        return TradingCosts(self.fee_rate * scale, self.slippage * scale)


@dataclass(frozen=True)
class ExecutionRules:
    """The numbers of execution; the defaults are those of docs/rules.md.

    Attributes:
        capital: starting equity of every block, in USD.
        safety_buffer: share of equity that is never allocated.
        base_alloc: share of the rest that an order of size 1 uses.
        max_position: largest position value as a share of equity, either side.
        min_order_usd: orders below this value are dropped.
        equity_fee_bps, crypto_fee_bps: fee on traded value.
        slippage_bps: each fill is worse than the open by this much.
        zero_volume_fills: true where a source writes 0 for an unknown volume.
        neutral_account_features: feed the constants of live inference instead of the account's own state.
    """

    capital: float = 100_000.0
    safety_buffer: float = 0.30
    base_alloc: float = 0.15
    max_position: float = 0.20
    min_order_usd: float = 1.0
    equity_fee_bps: float = 0.0
    crypto_fee_bps: float = 25.0
    slippage_bps: float = 5.0
    zero_volume_fills: bool = False
    neutral_account_features: bool = False

    def fee_rate(self, asset_class: AssetClass) -> float:
        """Fee as a fraction of traded value."""
        return BPS * (self.crypto_fee_bps if asset_class is AssetClass.CRYPTO else self.equity_fee_bps)

    @property
    def slippage(self) -> float:
        """Slippage as a fraction of the price."""
        return BPS * self.slippage_bps

    def costs(self, asset_class: AssetClass) -> TradingCosts:
        """What a fill costs."""
        return TradingCosts(self.fee_rate(asset_class), self.slippage)

    @staticmethod
    def long_only(asset_class: AssetClass) -> bool:
        """Crypto cannot be sold short on Alpaca; equities can."""
        return asset_class is AssetClass.CRYPTO

    def as_dict(self) -> dict[str, float | bool]:
        """The numbers by name, for digests."""
        return asdict(self)

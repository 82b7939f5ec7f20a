"""Settings that are numbers of the rules: execution, grades, and both policies (docs/rules.md, docs/evidence.md).

Here: each with its default, and the objects of the domain that are made from them. Not here: other settings, or where
settings are read from (settings.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from functools import cached_property
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.policies import PolicyLimits
from postval_assets.core.walk_forward import GradeLimits
from postval_assets.core.walk_forward_evidence import EvidenceLimits


class RuleSettings(BaseSettings):
    """The numbers of the rules."""

    capital: float = Field(100_000.0, gt=0, description="Starting equity of every block, USD.")
    safety_buffer: float = Field(0.30, ge=0, lt=1, description="Share of equity that is never allocated.")
    base_alloc: float = Field(0.15, gt=0, le=1, description="Share of the rest that an order of size 1 uses.")
    max_position: float = Field(0.20, gt=0, le=1, description="Largest position as a share of equity.")
    min_order_usd: float = Field(1.0, ge=0, description="Smaller orders are dropped.")
    equity_fee_bps: float = Field(0.0, ge=0, description="Fee for equities, basis points of traded value.")
    crypto_fee_bps: float = Field(25.0, ge=0, description="Fee for crypto, basis points of traded value.")
    slippage_bps: float = Field(5.0, ge=0, description="Slippage, basis points of the price, on every fill.")
    zero_volume: Literal["lapse", "fill"] = Field(
        "lapse",
        description="`lapse`: no fill in a bar of volume 0; `fill`: 0 means unknown.",
    )
    account_features: Literal["live", "neutral"] = Field(
        "live",
        description="`live`: the account's own state; `neutral`: constants.",
    )
    session: Literal["all", "regular"] = Field(
        "all", description="`regular`: only bars of the regular session."
    )
    good_positive_share: float = Field(0.80, description="Positive folds for GOOD and for LIVE.")
    marginal_positive_share: float = Field(0.60, description="Positive folds for MARGINAL and for PAPER.")
    good_sharpe_std: float = Field(1.0, description="Sharpe spread below this is GOOD.")
    marginal_sharpe_std: float = Field(2.0, description="Sharpe spread up to this is MARGINAL.")
    lucky_positive_share: float = Field(
        0.40, description="A profit with at most this share is ONE_LUCKY_PERIOD."
    )

    live_p_value_archive: float = Field(
        0.05, gt=0, lt=1, description="Policy evidence: largest p_value_archive for LIVE."
    )
    live_positive_share: float = Field(0.60, description="Policy evidence: positive folds for LIVE.")
    live_consistency_ratio: float = Field(
        1.5, description="Policy evidence: largest consistency_ratio for LIVE."
    )
    live_null_percentile: float = Field(0.95, description="Policy evidence: null_percentile for LIVE.")
    live_break_even: float = Field(
        2.0, ge=0, description="Policy evidence: break-even cost for LIVE, as a multiple of the assumed cost."
    )
    paper_counted_share: float = Field(0.5, description="Policy evidence: folds that count for PAPER.")
    paper_p_value: float = Field(0.20, gt=0, lt=1, description="Policy evidence: largest p_value for PAPER.")
    paper_null_percentile: float = Field(0.80, description="Policy evidence: null_percentile for PAPER.")

    @cached_property
    def execution_rules(self) -> ExecutionRules:
        """The numbers of execution."""
        return ExecutionRules(
            capital=self.capital,
            safety_buffer=self.safety_buffer,
            base_alloc=self.base_alloc,
            max_position=self.max_position,
            min_order_usd=self.min_order_usd,
            equity_fee_bps=self.equity_fee_bps,
            crypto_fee_bps=self.crypto_fee_bps,
            slippage_bps=self.slippage_bps,
            zero_volume_fills=self.zero_volume == "fill",
            neutral_account_features=self.account_features == "neutral",
        )

    @cached_property
    def grade_limits(self) -> GradeLimits:
        """Limits of grades and of the standard decision."""
        return GradeLimits(
            good_positive_share=self.good_positive_share,
            marginal_positive_share=self.marginal_positive_share,
            good_sharpe_std=self.good_sharpe_std,
            marginal_sharpe_std=self.marginal_sharpe_std,
            lucky_positive_share=self.lucky_positive_share,
        )

    @cached_property
    def evidence_limits(self) -> EvidenceLimits:
        """Limits of policy evidence; the settings have its names."""
        return EvidenceLimits(**{field.name: getattr(self, field.name) for field in fields(EvidenceLimits)})

    @property
    def policy_limits(self) -> PolicyLimits:
        """The numbers of all policies."""
        return PolicyLimits(self.grade_limits, self.evidence_limits)

    def evaluation_digest(self) -> str:
        """Digest of the settings that a fold's result depends on."""
        chosen: dict[str, Any] = {**self.execution_rules.as_dict(), "session": self.session}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()

"""postval: decides whether a freshly trained trading model may trade.

Public function of the package: ``assess_model_quality`` (docs/contract.md).
"""

from postval_assets.core.gating import assess_model_quality

__all__ = ["assess_model_quality"]

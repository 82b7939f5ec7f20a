"""One frozen settings object, read once and passed on: defaults, environment ``POSTVAL_*`` and ``postval.toml``.

Here: every setting with its default and its meaning (docs/settings.md is made from this file). Not here: what the
settings do.
"""

from __future__ import annotations

import difflib
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from postval_assets.core.bar_quality import DEFAULT_LIMITS, Check, QualityLimit, limit_problem
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import PLANS
from postval_assets.core.gating import THRESHOLD_SETS, MetricLimits, Thresholds
from postval_assets.core.instruments import AssetClass, Timeframe, parse_symbol
from postval_assets.core.model_spec import ACTIVATIONS
from postval_assets.core.policies import POLICIES
from postval_assets.settings_rules import RuleSettings
from postval_assets.settings_tables import QualityTable, ThresholdTable

# Variables that are read elsewhere than in a field of Settings.
STARTED_BY = "POSTVAL_STARTED_BY"  # which process started Dagster's: commands/left_behind.py
_OTHER_VARIABLES = frozenset({"POSTVAL_SETTINGS_FILE", STARTED_BY})
# Alpaca's own names for its keys (io/alpaca_keys.py); they are no settings, so that no file of settings holds a secret.
_ALPACA_VARIABLES = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "ALPACA_KEYS_FILE")

REPOSITORY = Path(__file__).resolve().parents[1]


class Settings(RuleSettings):
    """All settings of postval."""

    model_config = SettingsConfigDict(
        env_prefix="POSTVAL_", extra="forbid", frozen=True, toml_file=None, hide_input_in_errors=True
    )

    data_dir: Path = Field(
        Path("data"), description="Where everything that runs write goes; it can be moved."
    )
    sample_dir: Path = Field(REPOSITORY / "data" / "sample", description="The bundled sample.")
    inbox_dir: Path | None = Field(
        None, description="Where archives are dropped; `DATA_DIR/inbox` where not set."
    )
    port: int = Field(3000, ge=1, le=65535, description="Port of the web UI on 127.0.0.1.")

    bars_source: str = Field("sample", description="`sample`, `alpaca`, `parquet:DIR` or `csv:DIR`.")
    base_timeframe: Timeframe = Field(
        Timeframe.HOUR_1, description="Bars are stored in this timeframe; longer ones are made from it."
    )
    history_days: int = Field(
        800,
        ge=1,
        description="Days of bars that a source of the network is asked for; the longest plan and its look-back fit.",
    )
    alpaca_url: str | None = Field(
        None, description="Alpaca's data host, where it is another (a proxy, a test server)."
    )
    alpaca_feed: Literal["sip", "iex", "delayed_sip", "otc", "boats", "overnight"] | None = Field(
        None, description="Feed of stocks; the best one that the account has where not set."
    )
    alpaca_requests_per_minute: int = Field(
        200, ge=1, le=100_000, description="Requests to Alpaca in any minute; free accounts have 200."
    )
    alpaca_timeout_s: float = Field(
        30.0, gt=0, description="Silence of Alpaca after which a request is repeated."
    )
    symbol_classes: dict[str, AssetClass] = Field(
        default_factory=dict, description="Exceptions to the asset class that a symbol's name implies."
    )
    quality: dict[Check, QualityTable] = Field(
        default_factory=dict,
        description="Your own limits of the checks of bars, `[quality.CHECK]` with `warn` and `error`.",
    )
    quality_recent_days: int = Field(
        450,
        ge=1,
        description="Days before the newest bar in which bad bars are an ERROR; older ones are a WARN.",
    )

    plans: Annotated[tuple[str, ...], NoDecode] = Field(
        ("180d",),
        description="Walk-forward plans of an arriving archive (180d, 365d); a list or comma-separated.",
    )
    thresholds_version: str = Field(
        "v2.4.5", description="Gating thresholds: v2.4.5, v4.1.0 or one of your own."
    )
    thresholds: dict[str, ThresholdTable] = Field(
        default_factory=dict,
        description="Your own threshold sets, `[thresholds.NAME]` with `approve` and `review`.",
    )
    include_dropped: bool = Field(default=False, description="Evaluate models that the gate dropped, too.")
    decision_policy: str = Field("standard", description="The policy that postval acts on.")

    default_activation: str = Field("relu", description="Activation where a checkpoint does not name one.")
    feature_sets: dict[str, str] = Field(
        default_factory=dict, description="Feature set by archive id or model version (CONFIGURED)."
    )
    config_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("alpaca_trading.",),
        description="Modules whose config classes a checkpoint may name; read as inert records.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto` (CUDA where present), `cpu` or `cuda`."
    )

    max_models: int = Field(500, ge=1, description="Models in an archive.")
    max_checkpoint_mb: int = Field(2048, ge=1, description="Size of one checkpoint, unpacked.")
    max_archive_gb: int = Field(200, ge=1, description="Size of an archive's checkpoints together, unpacked.")
    max_entries: int = Field(5000, ge=1, description="Entries of any kind in an archive.")
    max_summary_mb: int = Field(16, ge=1, le=512, description="Size of a training summary, unpacked.")
    max_ratio: float = Field(200.0, ge=1, description="Unpacked size / packed size of an entry above 1 MB.")
    unreadable_after_minutes: float = Field(
        10.0,
        ge=0,
        description="An unreadable file is rejected after so long without change (a slow copy looks cut).",
    )
    lock_timeout_s: float = Field(60.0, gt=0, description="Longest wait for the warehouse.")
    symbols_per_run: int = Field(50, ge=1, le=500, description="Symbols in one run.")
    workers: int = Field(0, ge=0, le=256, description="Models worked on at once; 0: one for each core.")
    keep_archives_days: float | None = Field(
        None, ge=0, description="Days after which `postval prune` frees superseded zips; never where not set."
    )
    keep_weights_days: float | None = Field(
        None, ge=0, description="Days after which `postval prune` frees their weights; never where not set."
    )
    keep_rejected_days: float | None = Field(
        None, ge=0, description="Days after which `postval prune` frees refused files; never where not set."
    )
    keep_backups: int = Field(10, ge=1, description="Newest backups that `postval prune` keeps.")
    keep_runs_days: float = Field(90, gt=0, description="Days that `postval prune` keeps Dagster's runs for.")
    timings: Path | None = Field(
        None, description="File that each stage adds a line of JSON to: where its seconds went."
    )

    @field_validator("plans", "config_prefixes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("plans")
    @classmethod
    def _known_plans(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in PLANS]
        if unknown or not value:
            raise ValueError(
                f"unknown plan {', '.join(unknown) or '(none)'}; expected some of {', '.join(PLANS)}"
            )
        return tuple(dict.fromkeys(value))

    @field_validator("alpaca_url")
    @classmethod
    def _plain_host(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in value or parts.query:
            # Without the value, which may hold a password.
            raise ValueError("expected https://HOST[:PORT][/PATH], without a user name or a query")
        return value.rstrip("/")

    @field_validator("quality")
    @classmethod
    def _sound_limits(cls, value: dict[Check, QualityTable]) -> dict[Check, QualityTable]:
        problems = [limit_problem(check, warn=own.warn, error=own.error) for check, own in value.items()]
        if any(problems):
            raise ValueError("; ".join(filter(None, problems)))
        return value

    @field_validator("symbol_classes")
    @classmethod
    def _bare_symbols(cls, value: dict[str, AssetClass]) -> dict[str, AssetClass]:
        try:
            return {parse_symbol(symbol): asset_class for symbol, asset_class in value.items()}
        except Rejected as error:
            raise ValueError(str(error)) from error

    @field_validator("default_activation")
    @classmethod
    def _known_activation(cls, value: str) -> str:
        if value not in ACTIVATIONS:
            raise ValueError(f"unknown activation {value!r}; expected one of {', '.join(ACTIVATIONS)}")
        return value

    @field_validator("decision_policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(f"unknown policy {value!r}; expected one of {', '.join(POLICIES)}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over postval.toml, that over the defaults."""
        file = _settings_file()
        toml = (TomlConfigSettingsSource(settings_cls, toml_file=file),) if file is not None else ()
        return (init_settings, env_settings, *toml)

    @property
    def inbox(self) -> Path:
        """Where archives are dropped."""
        return self.inbox_dir or self.data_dir / "inbox"

    @property
    def alpaca_variables(self) -> dict[str, SecretStr]:
        """Those variables of the environment that hold Alpaca's keys or name their file; never shown, never kept."""
        return {name: SecretStr(os.environ[name]) for name in _ALPACA_VARIABLES if os.environ.get(name)}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may hold: the values among Alpaca's variables that are keys."""
        keys = {n: v for n, v in self.alpaca_variables.items() if n.startswith("APCA_")}
        return tuple(secret.get_secret_value() for secret in keys.values())

    @property
    def quality_limits(self) -> dict[Check, QualityLimit]:
        """Limits of every check of bars."""
        own = self.quality
        return {
            check: own[check].over(limit) if check in own else limit
            for check, limit in DEFAULT_LIMITS.items()
        }

    @cached_property
    def gate_thresholds(self) -> Thresholds:
        """The gating thresholds in force; raises Rejected where their name is unknown or their table is wrong."""
        name = self.thresholds_version
        if name in self.thresholds:
            if name in THRESHOLD_SETS:
                raise Rejected(f"thresholds {name} are built in: give your own set another name")
            table = self.thresholds[name]
            return Thresholds(
                name, MetricLimits(**table.approve.model_dump()), MetricLimits(**table.review.model_dump())
            )
        if name in THRESHOLD_SETS:
            return THRESHOLD_SETS[name]
        known = ", ".join([*THRESHOLD_SETS, *self.thresholds])
        raise Rejected(f"thresholds_version {name!r} is unknown: expected one of {known}")


def load_settings(**overrides: object) -> Settings:
    """Settings from overrides, environment and file, with an absolute data directory.

    Raises:
        Rejected: one line a wrong setting, with its name and what is expected.
    """
    try:
        settings = Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_said(e["loc"], e["type"], e["msg"]) for e in error.errors()]
        raise Rejected("settings: " + "; ".join(lines) + " (POSTVAL_* variables or postval.toml)") from error
    except SettingsError as error:
        raise Rejected(
            f"settings: a POSTVAL_* variable is not the JSON that it has to be: {error}"
        ) from error
    except ValueError as error:
        raise Rejected(f"settings: {_settings_file()} cannot be read: {error}") from error
    _refuse_unknown_variables()
    settings.gate_thresholds  # noqa: B018 - an unknown name is told here, not in the middle of a run
    return settings.model_copy(
        update={
            "data_dir": settings.data_dir.expanduser().absolute(),
            "bars_source": _absolute_source(settings.bars_source),
            "inbox_dir": settings.inbox_dir.expanduser().absolute() if settings.inbox_dir else None,
            "timings": settings.timings.expanduser().absolute() if settings.timings else None,
            "sample_dir": settings.sample_dir.expanduser().absolute(),
        }
    )


def environment(settings: Settings) -> dict[str, str]:
    """What another process needs to come to the same data directory, inbox, bars and settings file."""
    file = _settings_file()
    inbox = settings.inbox_dir
    return {
        "POSTVAL_DATA_DIR": str(settings.data_dir),
        "POSTVAL_BARS_SOURCE": settings.bars_source,
        "DAGSTER_HOME": str(settings.data_dir / "dagster"),
        **({"POSTVAL_INBOX_DIR": str(inbox)} if inbox is not None else {}),
        **({"POSTVAL_SETTINGS_FILE": str(file.absolute())} if file is not None else {}),
    }


def child_environment(settings: Settings) -> dict[str, str]:
    """The whole environment of a child process that works on this data directory."""
    inherited = {name: value for name, value in os.environ.items() if name != "POSTVAL_INBOX_DIR"}
    keys_file = inherited.get("ALPACA_KEYS_FILE")
    if keys_file:
        # The child may run in another folder.
        inherited["ALPACA_KEYS_FILE"] = str(Path(keys_file).expanduser().absolute())
    return {**inherited, **environment(settings), "PYTHONUNBUFFERED": "1"}


def export_environment(settings: Settings) -> None:
    """Bring Dagster, in this process, to the data directory: it finds its instance by the environment only."""
    os.environ["DAGSTER_HOME"] = environment(settings)["DAGSTER_HOME"]


def _said(where: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(str(part) for part in where)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return f"{name} is no setting" + (f"; did you mean {near[0]}" if near else "")
    if where[-1:] == ("[key]",):
        name, message = name.removesuffix(".[key]"), message.replace("Input should be", "unknown; expected")
    return f"{name}: {message.removeprefix('Value error, ')}"


def _refuse_unknown_variables() -> None:
    """A misspelt variable would be ignored silently, and the default would be taken for what was asked."""
    known = {f"POSTVAL_{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for name in sorted(os.environ):
        if name.upper().startswith("POSTVAL_") and name.upper() not in known:
            upper = name.upper()
            near = sorted(k for k in known if k.startswith(upper)) or difflib.get_close_matches(
                upper, known, n=1
            )
            hint = f"; did you mean {near[0]}" if near else ""
            raise Rejected(f"settings: the environment variable {name} is no setting{hint}")


def _absolute_source(spec: str) -> str:
    """``kind:DIR`` with an absolute DIR: other processes may run in another folder."""
    kind, colon, folder = spec.partition(":")
    return f"{kind}:{Path(folder).expanduser().absolute()}" if colon and folder else spec


def _settings_file() -> Path | None:
    named = os.environ.get("POSTVAL_SETTINGS_FILE")
    if named:
        path = Path(named)
        if not path.is_file():
            raise Rejected(f"settings: POSTVAL_SETTINGS_FILE names {path}, which is not a file")
        return path
    path = Path("postval.toml")
    return path if path.is_file() else None

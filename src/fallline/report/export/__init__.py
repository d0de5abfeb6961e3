"""A study's results in the formats of other tools: tables, TensorBoard, Optuna, and figures for a paper."""

from fallline.report.export.figures import write_figures
from fallline.report.export.optuna import write_optuna
from fallline.report.export.parquet import write_parquet
from fallline.report.export.tensorboard import write_tensorboard

__all__ = ["write_figures", "write_optuna", "write_parquet", "write_tensorboard"]

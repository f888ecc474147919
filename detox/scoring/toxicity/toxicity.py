"""The toxicity of texts: an `evaluate.Measurement` with the interface and the values of the hub's `toxicity`.

`evaluate.load` copies this file elsewhere and reads its imports line by line: one import a line, and those of
this project inside the methods.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

DEFAULT_MODEL = "facebook/roberta-hate-speech-dynabench-r4-target"
AGGREGATIONS = ("all", "maximum", "ratio")

_DESCRIPTION = "The probability that a classifier gives to a label such as `hate`, for each text."
_CITATION = """\
@inproceedings{vidgen2021lftw,
  title={Learning from the Worst: Dynamically Generated Datasets to Improve Online Hate Detection},
  author={Bertie Vidgen and Tristan Thrush and Zeerak Waseem and Douwe Kiela},
  booktitle={ACL},
  year={2021}
}
"""
_INPUTS = """
Args:
    predictions: list of texts.
    toxic_label: name of the label whose probability counts; the choice depends on the classifier.
    aggregation: `all` (one value a text), `maximum`, or `ratio` (share of texts at or above `threshold`).
    threshold: for `ratio`.
Returns:
    {"toxicity": [...]}, {"max_toxicity": ...} or {"toxicity_ratio": ...}
"""


class Toxicity(evaluate.Measurement):
    """Batched, on any device, from a local folder or a hub name; runs no code but this project's."""

    def __init__(
        self,
        config_name: str | None = None,
        keep_in_memory: bool = False,
        num_process: int = 1,
        classifier: Any = None,
        device: str = "auto",
        batch_size: int = 64,
        **settings: object,
    ):
        """Take the arguments of `evaluate.load`.

        Args:
            config_name: the classifier: a folder, a hub name or `demo:reward`.
            keep_in_memory: is on in a single process, where no file is written.
            classifier: a `detox.scoring.classifier.Classifier` to use in place of a name.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            batch_size: texts in one forward pass; the values do not depend on it.
            settings: the other arguments of `evaluate.EvaluationModule`.

        Raises:
            TypeError: there is no such argument (`toxic_label`, say, belongs to `compute`).
        """
        known = {
            "process_id",
            "cache_dir",
            "experiment_id",
            "hash",
            "seed",
            "max_concurrent_cache_files",
            "timeout",
        }
        if unknown := sorted(set(settings) - known):
            raise TypeError(f"the toxicity measurement takes no {', '.join(unknown)} when it is loaded")
        self.model_name = DEFAULT_MODEL if config_name in (None, "default") else config_name
        self.classifier = classifier
        self.device = device
        self.batch_size = batch_size
        # not handed on as config_name, of which evaluate makes a folder, in the model's own if it is a path
        super().__init__(keep_in_memory=keep_in_memory or num_process == 1, num_process=num_process, **settings)

    def _build_data_dir(self) -> str:
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
            reference_urls=["https://huggingface.co/spaces/evaluate-measurement/toxicity"],
        )

    def _download_and_prepare(self, dl_manager: object) -> None:
        try:
            from detox.model import devices
            from detox.scoring.classifier import load_classifier
        except ModuleNotFoundError as error:
            raise ImportError("put the folder that holds `detox` on PYTHONPATH: this module is a part of it") from error
        if self.classifier is None:
            self.classifier = load_classifier(self.model_name)
        self.classifier.model.to(devices.choose(str(self.device)))

    def _compute(
        self,
        predictions: list[str],
        aggregation: str = "all",
        toxic_label: str = "hate",
        threshold: float = 0.5,
    ) -> dict[str, object]:
        from detox.scoring.classifier import probabilities
        from detox.stage.errors import UserError

        if aggregation not in AGGREGATIONS:
            raise UserError(f"aggregation={aggregation}: choose {', '.join(AGGREGATIONS)}")
        label = self.classifier.index(toxic_label)
        scores = probabilities(self.classifier, predictions, self.batch_size)[:, label].tolist()
        if aggregation == "all":
            return {"toxicity": scores}
        if not scores:
            raise UserError(f"aggregation={aggregation}: there is no text to aggregate over")
        if aggregation == "maximum":
            return {"max_toxicity": max(scores)}
        return {"toxicity_ratio": sum(score >= threshold for score in scores) / len(scores)}

"""ultralytics: detectors, segmenters, classifiers, by the library's own files of settings."""

from __future__ import annotations

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of, pixels

PACKAGES = ("ultralytics",)
MODULES = ("ultralytics.nn.tasks",)


def _yolo(kind: str, settings: str, size: int = 64) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library("ultralytics.nn.tasks"), kind)(settings, verbose=False), pixels(size, rows=1))

    return build


MODELS: dict[str, Build] = {
    "yolov3": _yolo("DetectionModel", "yolov3-tiny.yaml"),
    "yolov5": _yolo("DetectionModel", "yolov5n.yaml"),
    "yolov8": _yolo("DetectionModel", "yolov8n.yaml"),
    "yolov8-segment": _yolo("SegmentationModel", "yolov8n-seg.yaml"),
    "yolov8-pose": _yolo("PoseModel", "yolov8n-pose.yaml"),
    "yolov8-boxes": _yolo("OBBModel", "yolov8n-obb.yaml"),
    "yolov8-classify": _yolo("ClassificationModel", "yolov8n-cls.yaml"),
    "yolov9": _yolo("DetectionModel", "yolov9t.yaml"),
    "yolov10": _yolo("DetectionModel", "yolov10n.yaml"),
    "yolo11": _yolo("DetectionModel", "yolo11n.yaml"),
    "yolo12": _yolo("DetectionModel", "yolo12n.yaml"),
    "rtdetr": _yolo("RTDETRDetectionModel", "rtdetr-resnet50.yaml", 128),
}

"""What stands in the path after the version."""

from __future__ import annotations

from compat.case import Case, predict

CASES = (
    Case(
        "url_path",
        handler="url_path/handler.py",
        config_file="url_path/config.yaml",
        rounds=(
            (predict({"prompt": "hello"}, path="/predictions/{case}/1.0/v1/chat/completion"),),
            (
                predict({"prompt": "hello"}, path="/predictions/{case}/1.0/v1/x"),
                predict({"prompt": "hello"}, path="/predictions/{case}/1.0/v1/completion?a=b"),
            ),
            (predict({"prompt": "hello"}),),
        ),
        exact=True,
    ),
)

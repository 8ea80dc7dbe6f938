import os
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def openai_components() -> dict[str, Any]:
    """Return `components` of OpenAI's OpenAPI document, `openapi.yaml`."""
    path = os.environ.get("TANDEM_OPENAI_SCHEMA")
    if not path:
        pytest.skip("TANDEM_OPENAI_SCHEMA is not set to the path of OpenAI's openapi.yaml")
    return yaml.load(Path(path).read_bytes(), Loader=yaml.CSafeLoader)["components"]

"""Errors of the Hub client in one line each."""

import importlib
import json

import pytest
from huggingface_hub import errors

from benchmark.errors import UserError
from benchmark.hub.errors import friendly_errors


def test_invalid_json_of_the_hub_is_told_from_a_damaged_file_of_this_machine(tmp_path):
    response = importlib.import_module(errors.HTTPError.__module__).Response(200, content=b"{")
    message = "the Hub returned invalid JSON for dataset me/cats; run again"
    with pytest.raises(UserError, match=message), friendly_errors("dataset me/cats"):
        response.json()
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(json.JSONDecodeError), friendly_errors("dataset me/cats"):
        json.loads((tmp_path / "own.json").read_text())

# SPDX-License-Identifier: GPL-2.0-or-later
"""Large bodies of requests. A route reads them itself: FastAPI would decode them before it checks the token."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

COMPONENT = "#/components/schemas/{model}"
"""Place of a body's schema in the description of the API, to which `api.openapi` adds it."""

_Body = TypeVar("_Body", bound=BaseModel)


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the description of a route says about its body (`openapi_extra`)."""
    schema = {"schema": {"$ref": COMPONENT.format(model=model.__name__)}}
    return {"requestBody": {"required": True, "content": {"application/json": schema}}}


def parsed(model: type[_Body], body: bytes) -> _Body:
    """Return a body that was read; raises RequestValidationError, which does not repeat what was sent."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from error

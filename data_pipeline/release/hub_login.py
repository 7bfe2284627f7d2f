"""Whether a push to the Hugging Face Hub can succeed: asked at the start of hours of work."""

from __future__ import annotations

import re
from typing import Protocol

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError


class Account(Protocol):
    """The method of `huggingface_hub.HfApi` that is used."""

    def whoami(self) -> object: ...


def require_login(repo_id: str, hub: Account | None = None) -> None:
    """ValueError where `repo_id` is not USER/NAME, nobody is logged in, or there is no network."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"--push-to-hub ({repo_id}) must have the form USER/NAME")
    try:
        (HfApi() if hub is None else hub).whoami()
    except LocalTokenNotFoundError as error:
        raise ValueError(
            f"not logged in to the Hugging Face Hub; run `hf auth login` to push to {repo_id}"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"the Hugging Face Hub refuses the login ({_first_line(error)}); run `hf auth login` "
            f"to push to {repo_id}"
        ) from error
    # Errors of the HTTP client pass through huggingface_hub, which changes clients.
    except Exception as error:
        raise ValueError(
            f"the Hugging Face Hub cannot be reached ({_first_line(error)}); leave --push-to-hub "
            f"{repo_id} out, or run this where there is a network"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

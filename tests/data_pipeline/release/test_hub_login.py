"""What stands in the way of a push is said in one line, before the work."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from data_pipeline.release.hub_login import require_login


class Hub:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.num_asked = 0

    def whoami(self) -> object:
        self.num_asked += 1
        if self.error is not None:
            raise self.error
        return {"name": "somebody"}


class RefusedError(HfHubHTTPError):
    """Without the response that the class of huggingface_hub takes, whose client changes."""

    def __init__(self) -> None:
        Exception.__init__(self, "401 Client Error: Unauthorized\nInvalid user token.")


def test_who_is_logged_in_may_push() -> None:
    hub = Hub()
    require_login("somebody/corpus", hub)
    assert hub.num_asked == 1


@pytest.mark.parametrize(
    ("repo_id", "error", "message"),
    [
        ("corpus", None, r"--push-to-hub \(corpus\) must have the form USER/NAME"),
        ("a/b/c", None, "must have the form USER/NAME"),
        ("a/b", LocalTokenNotFoundError("no token"), "run `hf auth login` to push to a/b"),
        ("a/b", RefusedError(), r"refuses the login \(401 .*Unauthorized\); run `hf auth login`"),
        ("a/b", OfflineModeIsEnabled("offline mode\nis on"), r"cannot be reached \(offline mode\)"),
        ("a/b", RuntimeError(), r"cannot be reached \(RuntimeError\); leave --push-to-hub a/b out"),
    ],
)
def test_what_stands_in_the_way(repo_id: str, error: Exception | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        require_login(repo_id, Hub(error))
    assert "\n" not in str(caught.value)

"""A published folder on its way to the Hugging Face Hub, as a dataset whose content it becomes."""

from __future__ import annotations

from pathlib import Path

from eval.published.read import HUB
from harness.config import UserError, first_line
from harness.guidance.hub import is_hub_id, is_offline


def name_on_hub(to: str) -> str:
    """OWNER/NAME of `hf:OWNER/NAME`; UserError for another name, and where HF_HUB_OFFLINE forbids it."""
    name = to.removeprefix(HUB)
    if not is_hub_id(name):
        raise UserError(f"--to {to}: a dataset of the Hub is {HUB}OWNER/NAME")
    if is_offline():
        raise UserError(f"--to {to}: HF_HUB_OFFLINE is set; unset it, or publish to a folder")
    return name


def upload(folder: Path, name: str, private: bool) -> str:
    """Make the dataset where there is none, and let one commit give it this content; the commit's address.

    Raises UserError where the Hub is not reached or refuses.
    """
    from huggingface_hub import HfApi, constants, get_token

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Runs published by dreamtime-harness",
            delete_patterns="*",
        )
    except Exception as error:  # the client raises its own, httpx's and OSError's, by version
        hint = "" if get_token() else "; log in (`hf auth login`) or set HF_TOKEN"
        why = f"{HUB}{name} cannot be written at {constants.ENDPOINT} ({first_line(error)}){hint}"
        raise UserError(why) from error
    return str(done.commit_url)

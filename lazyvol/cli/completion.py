"""The command ``completion``."""

from typing import Literal

from lazyvol.cli.options import say


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script by which a shell completes commands and options.

    For bash: lazyvol completion bash > ~/.local/share/bash-completion/completions/lazyvol. For zsh:
    into a file _lazyvol in a folder of $fpath. For fish: ~/.config/fish/completions/lazyvol.fish.

    Parameters
    ----------
    shell
        Shell that reads the script.

    Examples
    --------
    lazyvol completion bash > ~/.local/share/bash-completion/completions/lazyvol
    """
    from lazyvol.cli import make_app

    say(make_app().generate_completion(shell=shell).rstrip())

"""Completion for bash and zsh: commands, options, and the names of the runs that are there."""

from distrain_trainer.errors import SettingsError

BASH = r"""# bash: eval "$(distrain completion bash)"
_distrain() {
  local current="${COMP_WORDS[COMP_CWORD]}" options=() i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${COMP_WORDS[i]}" in
      -n | --namespace | --context | --kubeconfig) options+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}") ;;
    esac
  done
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "@COMMANDS@" -- "$current"))
  elif [[ "$current" == -* ]]; then
    case "${COMP_WORDS[1]}" in
@OPTIONS@
    esac
  else
    case "${COMP_WORDS[1]}" in
      @TAKES_RUN@) COMPREPLY=($(compgen -W "$(distrain completion runs "${options[@]}" 2>/dev/null)" -- "$current")) ;;
    esac
  fi
}
complete -o default -F _distrain distrain
"""
ZSH = r"""# zsh: eval "$(distrain completion zsh)"
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str) -> str:
    """What a shell evaluates."""
    from distrain_k8s.cli import COMMANDS

    names = [command.name for command in COMMANDS]
    runs = [c.name for c in COMMANDS if any(a.names[0] in ("run", "runs") for a in c.arguments)]
    options = []
    for command in COMMANDS:
        words = " ".join(name for argument in command.arguments if argument.is_option for name in argument.names)
        options.append(f'      {command.name}) COMPREPLY=($(compgen -W "{words} --help" -- "$current")) ;;')
    bash = BASH.replace("@COMMANDS@", " ".join(names)).replace("@TAKES_RUN@", " | ".join(runs))
    bash = bash.replace("@OPTIONS@", "\n".join(options))
    if shell == "bash":
        return bash
    if shell == "zsh":
        return ZSH + bash.partition("\n")[2]
    raise SettingsError(f"there is completion for bash and zsh, not for {shell}")

"""What can be typed into a conversation beside questions: ``/set``, ``/undo`` and so on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from edgelm.bundle.home import expanded
from edgelm.cli import console
from edgelm.cli.chat_session import ChatSession
from edgelm.cli.conversation import Conversation
from edgelm.cli.generation_options import implies_sampling
from edgelm.cli.output_file import refuse_missing_folder
from edgelm.cli.prompt_cache import check_beside, load_beside, save_beside, tell_older
from edgelm.cli.summary import scheme_text
from edgelm.cli.typed_settings import setting_name, setting_value
from edgelm.cli.units import table
from edgelm.config import GenerationConfig
from edgelm.errors import BundleExistsError, ConfigError, ManifestError, PromptError
from edgelm.text.answer_form import KINDS

_DEFAULT = "default"
# Of a model rather than of a conversation, or lists of tokens, which hardly anybody types: not shown.
_RARELY_TYPED = frozenset(
    {
        *("eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
        *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "encoder_no_repeat_ngram_size"),
        *("sequence_bias", "exponential_decay_length_penalty", "encoder_repetition_penalty", "max_length"),
        *("min_length", "num_return_sequences", "early_stopping", "logprobs", "top_logprobs"),
    }
)
# What decides whether tokens are drawn, or does nothing unless they are.
_OF_SAMPLING = frozenset(
    {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma", "seed"}
)
# "/set top_k 5", "/set top_k=5" and "/set top_k = 5".
_BETWEEN = re.compile(r"\s+=\s+|=\s*|\s+")
_SETTINGS = tuple(name for name in GenerationConfig.field_names() if name not in _RARELY_TYPED)


_WITH_CACHE = "--cache"


class Leave(Exception):  # noqa: N818, it is no error
    """The user wants to leave."""


def execute(session: ChatSession, line: str) -> None:
    """Executes a line that begins with a slash.

    Raises:
        ConfigError: no such command or setting, or a value out of range.
        Leave: ``/bye``.
        PromptError, StorageError: a file cannot be read or written.
    """
    name, *rest = line.split(maxsplit=1)
    handler = _HANDLERS.get(name)
    if handler is None:
        near = difflib.get_close_matches(name, _HANDLERS, n=1)
        hint = f"did you mean {near[0]}?" if near else "/help shows them all"
        raise ConfigError(f"there is no command {name!r:.80}; {hint}")
    handler(session, rest[0].strip() if rest else "")


def _set(session: ChatSession, argument: str) -> None:
    name, *rest = _BETWEEN.split(argument, maxsplit=1)
    if not name:
        raise ConfigError(f"/set NAME VALUE; known are: {', '.join(_SETTINGS)}")
    name = setting_name(name, _SETTINGS)
    if not rest or not rest[0]:
        raise ConfigError(f"/set {name} VALUE; {_DEFAULT} gives it back its own")
    text = rest[0]
    settings = dict(session.settings)
    if text == _DEFAULT:
        settings.pop(name, None)
    else:
        settings[name] = setting_value(name, text)
        if name != "do_sample" and implies_sampling({name: settings[name]}):
            settings["do_sample"] = True
    config = session.config_of(settings)
    session.settings = settings
    mode = f" ({'sampling' if config.do_sample else 'greedy'})" if name in _OF_SAMPLING else ""
    shown = 0.0 if settings.get(name) == 0 and name == "temperature" else _value(config, name)
    console.say(f"{name} = {_shown(shown)}{mode}")


def _value(config: GenerationConfig, name: str) -> object:
    """What holds; without either maximum, that is the default."""
    if name == "max_new_tokens" and config.max_length is None:
        return config.new_tokens(0)
    return getattr(config, name)


def _shown(value: object) -> str:
    return ", ".join(map(repr, value)) or "none" if isinstance(value, tuple) else str(value)


def _show(session: ChatSession, argument: str) -> None:
    manifest, config = session.lm.bundle.manifest, session.config_of(session.settings)
    rows = [
        ("model", f"{manifest.name}, {manifest.architecture}, {scheme_text(manifest)}"),
        ("context", f"{session.context_used} of {session.lm.context_length} tokens used"),
        ("questions", str(session.conversation.questions)),
        ("system", session.conversation.system or "none"),
        *((name, _shown(_value(config, name))) for name in _SETTINGS),
        *(
            (name, f"{console.one_line(_shown(session.settings[name])):.60}")
            for name in session.settings
            if name in KINDS
        ),
    ]
    console.say(table(rows[0], rows[1:]))


def _system(session: ChatSession, argument: str) -> None:
    session.conversation.system = argument or None
    console.say("system prompt set" if argument else "system prompt removed")


def _undo(session: ChatSession, argument: str) -> None:
    question = session.conversation.undo()
    if question is None:
        console.say("there is nothing to undo")
    else:
        lines = " ↵ ".join(line.strip() for line in question.strip().splitlines())
        console.say(f"taken back: {lines:.60}".rstrip())


def _clear(session: ChatSession, argument: str) -> None:
    session.conversation.clear()
    console.say("the conversation starts anew")


def _save(session: ChatSession, argument: str) -> None:
    with_cache = argument.split(maxsplit=1)[:1] == [_WITH_CACHE]
    file = _file(argument.removeprefix(_WITH_CACHE).strip() if with_cache else argument, "/save")
    refuse_missing_folder(file)
    if with_cache:
        check_beside(file)
    if file.exists() and not _is_conversation(file):
        raise BundleExistsError(f"{file} exists and is no saved conversation; choose another name")
    what = "replaced the conversation in" if file.exists() else "saved to"
    session.conversation.save(file)
    console.say(f"{what} {file}")
    if with_cache:
        save_beside(session.lm, file, session.token_ids)
    else:
        tell_older(file)


def _load(session: ChatSession, argument: str) -> None:
    file = _file(argument, "/load")
    session.conversation = Conversation.load(file)
    questions = session.conversation.questions
    console.say(f"loaded {questions} question{'s' * (questions != 1)}, {session.context_used} tokens of context")
    load_beside(session.lm, file)


def _is_conversation(file: Path) -> bool:
    try:
        Conversation.load(file)
    except (PromptError, ManifestError):
        return False
    return True


def _file(argument: str, command: str) -> Path:
    if not argument or "\0" in argument:
        raise ConfigError(f"{command} needs the name of a file")
    return expanded(Path(argument))


def _help(session: ChatSession, argument: str) -> None:
    console.say(_HELP)


def _bye(session: ChatSession, argument: str) -> None:
    raise Leave


_HANDLERS: dict[str, Callable[[ChatSession, str], None]] = {
    "/set": _set,
    "/show": _show,
    "/system": _system,
    "/undo": _undo,
    "/clear": _clear,
    "/save": _save,
    "/load": _load,
    "/help": _help,
    "/?": _help,
    "/bye": _bye,
    "/exit": _bye,
    "/quit": _bye,
}
_HELP = f'''/set NAME VALUE  change a setting, or give it back its own value: {_DEFAULT}
                 {", ".join(_SETTINGS)}
/show            model, settings, and how much of the context is used
/system TEXT     what the model shall know or be; without a text: nothing
/undo            take the last question and its answer back
/clear           forget the conversation
/save FILE       write the conversation to a file, as JSON, in the place of one that is there;
                 /save --cache FILE: with what was computed of it beside it, in FILE.kv
/load FILE       go on with a saved conversation, and with FILE.kv if it is there
/bye             leave (or /exit, /quit, Ctrl-D)
"""              begins and ends a message of several lines
Ctrl-C           stops the answer'''

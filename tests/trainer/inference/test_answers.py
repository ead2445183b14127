"""What a trained chat model answers: in the report, in the terminal and to `distrain predict`."""

import io
import json
from pathlib import Path

import pytest
from pytest import CaptureFixture, MonkeyPatch
from transformers import AutoTokenizer

import tiny
from chats import ENDLESS, FIRST, PLAIN, TAGGED, TOOLS, prepared, tokenizer_of, written
from distrain_k8s.cli import main
from distrain_trainer.__main__ import train
from distrain_trainer.errors import SettingsError
from distrain_trainer.inference.chat import answered, talk
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.inference.samples import answer_held_out
from distrain_trainer.models.load import stop_at_turn_end
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.checks import tell_endless
from runs import RunCommand, losses

ROOT = Path(__file__).parents[3]

OUTSIDE = TAGGED.replace("{{ eos_token }}{% endgeneration %}", "{% endgeneration %}{{ eos_token }}")


@pytest.mark.parametrize(("template", "ends"), [(PLAIN, True), (TAGGED, True), (ENDLESS, False), (OUTSIDE, False)])
def test_a_model_that_will_not_learn_to_stop_is_told_of(tmp_path: Path, template: str, ends: bool) -> None:
    tokenizer, model = tokenizer_of(template), tiny.decoder("llama", vocabulary=400)
    model.generation_config.eos_token_id = None
    stop_at_turn_end(model, tokenizer)
    made = prepared(tmp_path, written(tmp_path / "a.jsonl", [{"messages": FIRST}] * 3), tokenizer)
    said: list[str] = []
    tell_endless(Settings(task="chat"), model, tokenizer, made.train, said.append)
    assert len(said) == (not ends)
    assert ends or said[0].startswith("the model will not learn to end its answers: no trained token ends one (</s>); ")


def test_answers_that_cannot_be_made_are_said_and_end_nothing(tmp_path: Path) -> None:
    made = prepared(tmp_path, written(tmp_path / "a.jsonl", [{"messages": FIRST}]), tokenizer_of(PLAIN))
    said: list[str] = []
    chat = Settings.model_validate({"task": "chat", "strategy": {"kind": "zero3"}})
    assert answer_held_out(chat, tmp_path / "nowhere", made.train, said.append) == []
    assert said.pop().startswith("no answers for the report: the whole model may not fit here; run distrain chat")
    assert answer_held_out(Settings(task="chat"), tmp_path / "nowhere", made.train, said.append) == []
    assert "nowhere does not exist" in said.pop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_command: RunCommand) -> Path:
    """The example's run on a small model, with a template from a file."""
    folder = tmp_path_factory.mktemp("chat")
    model = tiny.tiny_llama(folder / "model")
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | {key: 1024}))
    (model / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6}')
    (folder / "template.jinja").write_text(TOOLS)
    more = ("--model.name", model, "--data.files", ROOT / "examples/chat.jsonl", "--output_dir", folder / "run")
    quick = ("--optimizer.learning_rate", "5e-3", "--batch.micro_batches", 1, "--batch.tokens", 2048)
    template = ("--chat.template", folder / "template.jinja", "--chat.samples", 2)
    done = run_command("train", ROOT / "examples/chat.yaml", *more, *quick, *template)
    assert done.returncode == 0, done.stderr
    assert "48 training conversations became 48 rows" in done.stderr
    return folder / "run"


def test_the_example_learns_and_leaves_answers_and_its_template(trained: Path) -> None:
    found = list(losses(trained).values())
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    info = json.loads((trained / "training_info.json").read_text())
    assert set(info["final"]) == {"loss", "perplexity", "bits_per_token", "token_accuracy"}
    assert info["best"]["metric"] == "loss" and info["final"]["token_accuracy"] > 0.3
    assert len(info["answers"]) == 2
    rows = [json.loads(line)["messages"] for line in (ROOT / "examples/chat.jsonl").read_text().splitlines()]
    first_answers = [next(message for message in row if message["role"] == "assistant") for row in rows]
    for sample in info["answers"]:
        assert sample["prompt"].endswith("<assistant>")
        called = sample["expected"].startswith("<call>")
        assert called or sample["expected"] in [message["content"] for message in first_answers]
    report = (trained / "report.html").read_text()
    assert "Held-out prompt" in report and "distrain chat final" in report
    tokenizer = AutoTokenizer.from_pretrained(trained / "final")
    assert tokenizer.chat_template == TOOLS
    assert json.loads((trained / "final" / "config.json").read_text())["use_cache"] is True
    generation = json.loads((trained / "final" / "generation_config.json").read_text())
    assert generation["do_sample"] is True and generation["top_p"] == 0.6
    stored = json.loads((trained / "settings.json").read_text())["settings"]
    assert stored["data"]["evaluation_fraction"] == 0.2


def test_a_run_is_finished_before_its_answers_are_made(
    llama: Path, tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    def no_room(folder: str, flags: dict[str, str]) -> None:
        assert Path(folder, "model.safetensors").exists()
        assert json.loads((tmp_path / "out" / "training_info.json").read_text())["status"] == "finished"
        raise MemoryError("no room")

    monkeypatch.setattr("distrain_trainer.inference.samples.load", no_room)
    (tmp_path / "template.jinja").write_text(PLAIN)
    values = {
        "task": "chat",
        "model": {"name": str(llama)},
        "chat": {"template": str(tmp_path / "template.jinja")},
        "data": {"files": [str(written(tmp_path / "a.jsonl", [{"messages": FIRST}] * 10))]},
        "batch": {"tokens": 256},
        "output_dir": str(tmp_path / "out"),
    }
    train(Settings.model_validate(values), resume=False)
    assert "some answers for the report are missing (no room); run distrain chat" in capsys.readouterr().err
    info = json.loads((tmp_path / "out" / "training_info.json").read_text())
    assert info["status"] == "finished" and info["answers"] is None
    assert (tmp_path / "out" / "report.html").exists()


def piped(text: str) -> io.TextIOWrapper:
    """A stdin that is a pipe with this text in it."""
    return io.TextIOWrapper(io.BytesIO(text.encode()))


def test_chat_answers_each_line_of_a_pipe(trained: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]) -> None:
    script = "Hello!\n\n/system Answer in one short sentence.\nWho are you?\n/what\n/reset\nHello!\n/exit\nnever read\n"
    monkeypatch.setattr("sys.stdin", piped(script))
    with pytest.raises(SystemExit) as left:
        main(["chat", str(trained), "--max-new-tokens", "1"])
    assert left.value.code == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 3
    model, told = captured.err.splitlines()
    assert model.startswith("model: ") and told.startswith("there is no command /what: /reset forgets")


def test_chat_streams_what_predict_says_and_remembers_the_conversation(
    trained: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", piped("Hello!\nThank you.\n"))
    talk(str(trained), 6)
    spoken = capsys.readouterr().out
    asked = [{"role": "user", "content": "Hello!"}]
    answers: list[str] = []
    for question in (None, "Thank you."):
        if question:
            asked = [*asked, {"role": "assistant", "content": answers[-1]}, {"role": "user", "content": question}]
        monkeypatch.setattr("sys.stdin", piped(json.dumps(asked) + "\n"))
        predict_folder(str(trained), None, None, 6)
        said = json.loads(capsys.readouterr().out)
        assert said["messages"] == asked
        answers.append(said["answer"])
    assert spoken == "".join(answer + "\n" for answer in answers)

    file = written(tmp_path / "asked.jsonl", [{"messages": [*asked, FIRST[1]]}, {"messages": asked[:1]}])
    predict_folder(str(trained), str(file), str(tmp_path / "out"), 6)
    made = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["answer"] for row in made] == [answers[1], answers[0]]
    monkeypatch.setattr("sys.stdin", piped('{"prompt": "Hello!"}\n'))
    predict_folder(str(trained), None, None, 6)
    assert json.loads(capsys.readouterr().out)["answer"] == answers[0]


def test_a_chat_with_tools_is_asked_as_predict_asks_it(
    trained: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str], tmp_path: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    monkeypatch.setattr("sys.stdin", piped("How is it in Bern?\n/tool rain\n"))
    talk(str(trained), 8, tools_file=str(tmp_path / "tools.json"))
    spoken = capsys.readouterr().out
    asked = [{"role": "user", "content": "How is it in Bern?"}]
    answers: list[str] = []
    for answer in ("", "rain"):
        if answer:
            asked = [*asked, {"role": "assistant", "content": answers[-1]}, {"role": "tool", "content": answer}]
        monkeypatch.setattr("sys.stdin", piped(json.dumps({"messages": asked, "tools": tools}) + "\n"))
        predict_folder(str(trained), None, None, 8)
        answers.append(json.loads(capsys.readouterr().out)["answer"])
    assert spoken == "".join(answer + "\n" for answer in answers)
    with pytest.raises(SettingsError, match="--tools nowhere cannot be read"):
        talk(str(trained), 1, tools_file="nowhere")


def test_calls_are_told_and_remembered_as_calls(capsys: CaptureFixture[str]) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    said = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    assert answered(said, tools) == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert 'called: weather {"city": "Bern"} (/tool TEXT answers it)' in capsys.readouterr().err
    assert answered(said, None) == {"role": "assistant", "content": said}


def test_a_conversation_that_is_too_long_is_told(
    trained: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", piped("cat " * 1100 + "\nHello!\n"))
    talk(str(trained), 2)
    captured = capsys.readouterr()
    assert "tokens but the model takes 1024; shorten it (/reset starts anew)" in captured.err
    assert captured.out.count("\n") == 1

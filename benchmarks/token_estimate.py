"""How far the token estimate is from the real count, for each corpus.

    TIKTOKEN_CACHE_DIR=... python benchmarks/token_estimate.py [--data ../shared/eval] [--encoding o200k_base]

Wanted: fewer than 1% of the texts counted too low, and less than 20% counted too much on average.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import random
import re
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tracebank.tokens import ENCODINGS, EstimateTokenizer, Tokenizer, TokenizerLoader

REPOSITORY = Path(__file__).resolve().parent.parent
TABLES_TIMEOUT_S = 60.0
NO_TABLES = """{problem}
The estimate can only be judged against the real tables. Either let tiktoken download them once (it needs the network),
or set TIKTOKEN_CACHE_DIR to a folder that holds them already."""

SENTENCES = {
    "chinese": [
        "智能体在执行任务时应当记录每一步的结果，并在失败后分析原因。",
        "数据库连接超时通常是因为连接池已满，建议先检查配置文件，然后重新启动服务。",
        "昨天晚上我们去了北京的一家餐厅吃饭，味道很好，价格也不贵。",
        "如果接口返回四百零三错误，请先确认访问令牌是否过期。",
        "他把书放在桌子上，打开窗户，看着外面的雨慢慢停下来。",
        "蝴蝶在篱笆旁边的蔷薇丛里翩翩起舞。",
    ],
    "japanese": [
        "エージェントはタスクを実行するとき、各ステップの結果を記録する必要があります。",
        "データベース接続のタイムアウトは、接続プールがいっぱいであることが多いです。",
        "昨日の夜、私たちは東京のレストランで食事をしました。",
        "設定ファイルを確認してから、サービスを再起動してください。",
        "雨が止んだので、彼は窓を開けて外を眺めた。",
    ],
    "russian": [
        "Агент должен записывать результат каждого шага при выполнении задачи и анализировать причину неудачи.",
        "Превышение времени ожидания соединения обычно означает, что пул соединений переполнен.",
        "Вчера вечером мы ходили в ресторан, и нам всё очень понравилось.",
        "Сначала проверьте файл настроек, затем перезапустите службу.",
        "Он положил книгу на стол, открыл окно и смотрел, как заканчивается дождь.",
    ],
    "emoji": [
        "Great job! 🎉🎉 See you at the beach 🏖️🌊",
        "I ❤️ my family 👩‍👩‍👧‍👦 and our trip to 🇩🇪 🇯🇵",
        "👍🏽 sounds good 🤷‍♀️ 😂😂😂",
        "Deployed 🚀🔥 all tests pass ✅ no more 🐛",
        "🧑‍🚀 🦖 🫠 ✨ what a day 😅",
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How the estimate of one corpus lies to the real counts. Shares are of 1; below 0 is too low."""

    texts: int
    under_share: float
    mean_over: float
    total_over: float
    worst_under: float


def measure(texts: list[str], real: Tokenizer, estimate: Tokenizer) -> Distance:
    """Return the distance over those `texts` that have any token."""
    pairs = [(estimate.count(text), real.count(text)) for text in texts if text]
    over = [estimated / counted - 1 for estimated, counted in pairs]
    return Distance(
        texts=len(pairs),
        under_share=sum(share < 0 for share in over) / len(over),
        mean_over=statistics.fmean(over),
        total_over=sum(estimated for estimated, _ in pairs) / sum(counted for _, counted in pairs) - 1,
        worst_under=min(0.0, *over),
    )


def given_corpora(folder: Path) -> dict[str, list[str]]:
    """Return the texts of the evaluation sets in `folder`."""
    sets = _load_module(folder / "load.py")
    contexts = [row["context"] for row in sets.litm()]
    lessons = [sets.reme(file.stem) for file in sorted((sets.ROOT / "reme").glob("*.jsonl"))]
    return {
        "litm contexts": contexts,
        "litm documents": sorted({line for context in contexts for line in context.split("\n")}),
        "locomo turns": _traces(sets.locomo("turn")),
        "locomo sessions": _traces(sets.locomo("session")),
        "scifact abstracts": _traces(sets.scifact()),
        "reme lessons": [text for haystacks in lessons for text in _traces(haystacks)],
    }


def made_corpora(rng: random.Random) -> dict[str, list[str]]:
    """Return texts that need no files: the standard library's source, and what is made here."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    sources = [file.read_text(encoding="utf-8") for file in files]
    names = sorted(set(re.findall(r"[A-Za-z_]{8,}", "".join(sources))))
    corpora = {
        "python files": sources,
        "python fragments": [source[at : at + 1500] for source in sources for at in range(0, len(source), 6000)],
        "identifiers": [" ".join(rng.sample(names, rng.randrange(5, 40))) for _ in range(300)],
    }
    makers: dict[str, Callable[[random.Random], str]] = {
        "json": _json,
        "log lines": _log_line,
        "urls": _url,
        "hex": lambda rng: rng.randbytes(rng.randrange(8, 200)).hex(),
        "base64": lambda rng: base64.b64encode(rng.randbytes(rng.randrange(8, 200))).decode(),
    }
    for name, make in makers.items():
        corpora[name] = [make(rng) for _ in range(300)]
    for name, sentences in SENTENCES.items():
        several = [" ".join(rng.sample(sentences, rng.randrange(2, 5))) for _ in range(100)]
        corpora[name] = sentences + several
    return corpora


def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluation_sets", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"no evaluation sets at {path}: give the folder that holds load.py with --data")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _traces(haystacks: Iterable[tuple[list[Mapping[str, Any]], object]]) -> list[str]:
    return [
        "\n".join([trace["task"], *([trace["content"]] if "content" in trace else []), *trace.get("lessons", [])])
        for traces, _ in haystacks
        for trace in traces
    ]


def _json(rng: random.Random) -> str:
    steps = [
        {
            "tool": rng.choice(["search", "read_file", "write_file"]),
            "ms": rng.randrange(10**5),
            "ok": rng.random() < 0.8,
        }
        for _ in range(rng.randrange(1, 8))
    ]
    record = {"trace_id": rng.randbytes(6).hex(), "score": rng.random(), "tags": ["memory", "api"], "steps": steps}
    return json.dumps(record, indent=rng.choice([None, 2, 4]))


def _log_line(rng: random.Random) -> str:
    return (
        f"2025-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:{rng.randrange(60):02}:"
        f"{rng.random() * 60:06.3f}Z {rng.choice(['INFO', 'WARN', 'ERROR'])} [{rng.choice(['worker-3', 'db.pool'])}] "
        f"request_id={rng.randbytes(8).hex()} status={rng.choice([200, 404, 500])} "
        f"path=/api/v1/{rng.choice(['users', 'orders'])}/{rng.randrange(10**6)} took {rng.randrange(5000)}ms"
    )


def _url(rng: random.Random) -> str:
    return (
        f"https://{rng.choice(['example.org', 'docs.example.com'])}/{rng.choice(['search', 'articles', 'v2/items'])}/"
        f"{rng.randrange(10**6)}?q={rng.choice(['memory+agents', 'token%20budget'])}&session={rng.randbytes(8).hex()}"
    )


def main() -> None:
    """Print a row for each corpus, and the speed of both counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "eval", help="folder with load.py")
    parser.add_argument("--encoding", choices=ENCODINGS, default="o200k_base", help="the real count to compare with")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "tracebank", help="keeps the tables")
    options = parser.parse_args()
    loader = TokenizerLoader(options.encoding, cache_dir=options.cache)
    real, estimate = loader.current(TABLES_TIMEOUT_S), EstimateTokenizer()
    if real.name == estimate.name:
        sys.exit(NO_TABLES.format(problem=loader.problem or f"no tables within {TABLES_TIMEOUT_S:.0f} s"))
    corpora = given_corpora(options.data) | made_corpora(random.Random(7))
    corpora["all"] = [text for texts in corpora.values() for text in texts]
    print(f"{'corpus':18} {'texts':>6} {'too low':>8} {'mean over':>10} {'total over':>11} {'worst':>8}")
    for name, texts in corpora.items():
        row = measure(texts, real, estimate)
        shares = f"{row.under_share:8.2%} {row.mean_over:10.1%} {row.total_over:11.1%} {row.worst_under:8.1%}"
        print(f"{name:18} {row.texts:6} {shares}")
    mebibyte = "".join(corpora["python files"])[: 2**20]
    for tokenizer in (real, estimate):
        began = time.perf_counter()
        tokenizer.count(mebibyte)
        print(f"{tokenizer.name}: {(time.perf_counter() - began) * 1000:.0f} ms for 1 Mi characters of source code")


if __name__ == "__main__":
    main()

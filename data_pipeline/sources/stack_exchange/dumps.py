"""Reads Stack Exchange dumps: a site's `Posts.xml`, or its `.7z` or `.zip` archive.

A document is a question with its answers, sorted by score, highest first. Answers may be anywhere
after their question in a file of up to 100 GB, so that posts are grouped by question on disk.
`offset` is the question's id; for a post that is in no document, its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

from data_pipeline.document import Document, Rejected
from data_pipeline.files.archives import ARCHIVES, is_archive, open_file
from data_pipeline.files.compressed import (
    DAMAGE,
    JSON_SUFFIXES,
    chunks,
    one_line,
    uncompressed_name,
)
from data_pipeline.files.inputs import InputFile, Inputs, NotRead, printable, walk
from data_pipeline.files.remote import Root
from data_pipeline.files.xml_records import Piece, RecordError, parse, pieces, utf8
from data_pipeline.sources.stack_exchange.grouped_records import Group, GroupedRecords
from data_pipeline.sources.stack_exchange.post_html import PostError
from data_pipeline.sources.stack_exchange.post_html import to_text as html_to_text
from data_pipeline.sources.stack_exchange.sites import host_of_site
from data_pipeline.text.decoding import clean, word_set

_POSTS = "posts.xml"
_SPLIT = re.compile(r"\.(?:7z|zip)\.\d{2,4}$|\.z\d\d$")
_SPLIT_ARCHIVE = NotRead(
    "split_archive", "a part of an archive; join all parts in order: cat SITE.7z.* > SITE.7z"
)
_NOT_A_DUMP = NotRead(
    "not_a_dump",
    "rows of questions or text, no dump; download SITE.7z from archive.org/details/stackexchange, "
    "or give them a source of their own",
)
_REPACK = NotRead("repack", "unpack it, or pack it again as SITE.7z or .zip")
_SITE_LIST = NotRead("site_list", "the list of sites has no posts")
_OTHER_TABLES = word_set("badges comments posthistory postlinks tags users votes")
_QUESTION, _ANSWER = "1", "2"
# Start date of each license, newest first; Stack Exchange's own rule for posts without a stated
# license (meta.stackexchange.com/questions/347758).
_LICENSES = (
    ("2018-05-02", "CC-BY-SA-4.0"),
    ("2011-04-08", "CC-BY-SA-3.0"),
    ("", "CC-BY-SA-2.5"),
)
_STATED_LICENSE = re.compile(r"CC BY-SA (2\.5|3\.0|4\.0)")
_ROW_ID = re.compile(rb'\sId="(\d{1,18})"')
_INTEGER = re.compile(r"-?\d{1,18}")


def inputs(root: Root, *, sites: Sequence[str], max_sites: int | None) -> Inputs:
    """The posts of at most `max_sites` sites under `root` (None: of all).

    First come the sites in `sites`, in its order, then the others, the largest file first: the
    paper took the largest sites of a full dump, which `sites` lists; of any other sites given, all
    are used. A site is named by its archive (`math.stackexchange.com.7z`,
    `stackoverflow.com-Posts.7z`) or by the folder of its `Posts.xml`; an archive beside its own
    unpacked `Posts.xml` is ignored.
    """
    tree = walk(root, follow_symlinks=True)
    posts = [file for file in tree.files if _table(file) == "posts"]
    unpacked = {site_of(file) for file in posts if not _is_archive(file)}
    order = {site: rank for rank, site in enumerate(sites)}
    sizes: dict[str, int] = {}
    for file in posts:
        sizes[site_of(file)] = sizes.get(site_of(file), 0) + file.size
    ranked = sorted(sizes, key=lambda site: (order.get(site, len(order)), -sizes[site], site))
    wanted = frozenset(ranked[:max_sites])

    def why_ignored(file: InputFile) -> str | NotRead | None:
        table = _table(file)
        if table != "posts":
            return "other_table" if table in _OTHER_TABLES else _other_format(file)
        if site_of(file) not in wanted:
            return "site_not_among_largest"
        if _is_archive(file) and site_of(file) in unpacked:
            return "unpacked_beside_it"
        return None

    return tree.without(why_ignored)


def _other_format(file: InputFile) -> str | NotRead:
    if _SPLIT.search(file.path.name.lower()):
        return _SPLIT_ARCHIVE
    name = file.path.name.lower()
    if name.endswith((".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return _REPACK
    if uncompressed_name(name) == "sites.xml":
        return _SITE_LIST
    rows = (*JSON_SUFFIXES, ".parquet", ".arrow", ".csv")
    return _NOT_A_DUMP if uncompressed_name(file.path.name).endswith(rows) else "unknown_kind"


def _is_archive(file: InputFile) -> bool:
    return is_archive(file.path.name)


def _is_posts(member: str) -> bool:
    """Some archives have the tables in a folder, or their names in lower case."""
    return PurePosixPath(member).name.lower() == _POSTS


def _table(file: InputFile) -> str:
    """The database table of a file, in lower case: "posts", "comments", ..."""
    name = PurePosixPath(uncompressed_name(file.path.name))
    if name.suffix in ARCHIVES:
        table = name.stem.rpartition("-")[2]
        return table if table in _OTHER_TABLES else "posts"
    return name.stem if name.suffix == ".xml" else ""


def site_of(file: InputFile) -> str:
    """The host name of a file's site: "math.stackexchange.com". Where neither its archive nor a
    folder around it, from the inside out, is named for a site: the folder's name, without a dot.
    """
    place = PurePosixPath(file.source_file)
    if _is_archive(file):
        names = [place.stem.lower().removesuffix("-posts")]
    else:
        folders = list(file.path.parents)[: len(place.parts)]
        names = [printable(folder.name).lower() for folder in folders]
    host = next(filter(None, map(host_of_site, names)), None)
    return host or names[0].replace(".", "_")


class _Post(NamedTuple):
    """A question or an answer."""

    id: int
    is_question: bool
    score: int
    created: str
    license: str
    body: str
    title: str
    accepted: int


def read(
    file: InputFile,
    *,
    min_question_score: int | None,
    min_answer_score: int | None,
    min_answers: int,
    max_post_bytes: int,
    max_memory_bytes: int,
    work_folder: Path | None,
) -> Iterator[Document | Rejected]:
    """The questions of one site with their answers, sorted by score, highest first.

    Tie-break: the accepted answer, then the older one; the paper sorts by score alone, and the
    asker's choice is not a vote. It is not marked in the text.
    Posts beyond `max_memory_bytes` are spilled to unnamed files in `work_folder` (None: the
    system's folder for temporary files), which need about a third of the size of `Posts.xml`.
    Answers below `min_answer_score`, without a question or malformed are rejected one by one.
    """
    rules = _Rules(min_question_score, min_answer_score, min_answers)
    grouped = GroupedRecords(max_memory_bytes, work_folder)
    try:
        yield from _group_posts(file, grouped, max_post_bytes)
        site = site_of(file)
        for group in grouped.groups():
            yield from _thread(group, file, site, rules)
    finally:
        grouped.close()


class _Rules(NamedTuple):
    min_question_score: int | None
    min_answer_score: int | None
    min_answers: int


def _group_posts(
    file: InputFile, grouped: GroupedRecords, max_post_bytes: int
) -> Iterator[Rejected]:
    """Add all posts of a file to `grouped`, by question id; yields rejections."""
    last_id: int | None = None
    num_rows = 0
    closed = False
    try:
        with open_file(file.path, _is_posts, "table Posts.xml") as stream:
            records = pieces(utf8(chunks(stream)), "row", max_post_bytes)
            closed = b"</posts>" in next(records).data
            for piece in records:
                num_rows += 1
                closed = b"</posts>" in piece.data[-200:]
                item = _post(piece, file)
                if isinstance(item, Rejected):
                    last_id = item.offset or last_id
                    yield item
                else:
                    question, post = item
                    last_id = post.id
                    grouped.add(question, tuple(post))
        if num_rows == 0:
            yield Rejected("no_posts", file.source_file)
        elif not closed:
            detail = "the file ends before </posts>"
            yield Rejected("truncated", file.source_file, last_id, detail)
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, last_id, one_line(error))


def _post(piece: Piece, file: InputFile) -> tuple[int, _Post] | Rejected:
    """Parse a row: (question id, post)."""
    found = _ROW_ID.search(piece.data)
    row_id = int(found[1]) if found else None
    if piece.too_large:
        detail = f"more than {len(piece.data)} bytes"
        return Rejected("post_too_large", file.source_file, row_id, detail)
    # Attributes contain no "<": the row ends before the next one, if there is any.
    data = piece.data.partition(b"<")[2].partition(b"<")[0].rstrip()
    if not data.endswith(b">"):
        return Rejected("damaged_post", file.source_file, row_id, "the row is truncated")
    try:
        row = parse(b"<" + data.removesuffix(b">").removesuffix(b"/") + b"/>").attrib
    except RecordError as error:
        return Rejected("damaged_post", file.source_file, row_id, one_line(error))
    return _post_of_row(row, file, row_id)


def _post_of_row(
    row: Mapping[str, str], file: InputFile, row_id: int | None
) -> tuple[int, _Post] | Rejected:
    kind = row.get("PostTypeId")
    if kind is not None and kind not in (_QUESTION, _ANSWER):
        return Rejected("other_post_type", file.source_file, row_id, f"PostTypeId {kind}")
    if "DeletionDate" in row:
        return Rejected("deleted", file.source_file, row_id)
    needed = ["Id", "PostTypeId", "Score", "Body", *(["ParentId"] if kind == _ANSWER else [])]
    missing = [name for name in needed if name not in row]
    if missing:
        return Rejected("missing_attribute", file.source_file, row_id, ", ".join(missing))
    numbers = {name: _integer(row.get(name)) for name in ("Id", "Score", "ParentId")}
    wrong = [name for name, number in numbers.items() if name in needed and number is None]
    if wrong:
        detail = ", ".join(f"{name} '{row[name][:40]}' is not an integer" for name in wrong)
        return Rejected("bad_attribute", file.source_file, row_id, detail)
    post = _Post(
        id=numbers["Id"] or 0,
        is_question=kind == _QUESTION,
        score=numbers["Score"] or 0,
        created=row.get("CreationDate", ""),
        license=_license(row),
        body=row["Body"],
        title=row.get("Title", ""),
        accepted=_integer(row.get("AcceptedAnswerId")) or 0,
    )
    return (post.id if post.is_question else numbers["ParentId"] or 0), post


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def _license(row: Mapping[str, str]) -> str:
    """SPDX id: as stated by the post, else by its creation date."""
    stated = _STATED_LICENSE.fullmatch(row.get("ContentLicense", ""))
    if stated is not None:
        return f"CC-BY-SA-{stated[1]}"
    created = row.get("CreationDate", "")
    return next(license for start, license in _LICENSES if created >= start)


def _thread(
    group: Group, file: InputFile, site: str, rules: _Rules
) -> Iterator[Document | Rejected]:
    """A question with its answers as one document, and the rejected posts."""
    posts: dict[int, _Post] = {}
    for record in group.records:
        post = _Post(*cast(tuple[int, bool, int, str, str, str, str, int], record))
        if post.id in posts:
            yield Rejected("duplicate_post", file.source_file, post.id)
        posts.setdefault(post.id, post)
    question = posts.pop(group.key, None)
    if group.num_left_out:
        detail = f"{group.num_left_out} of its posts exceed the memory limit"
        yield Rejected("thread_too_large", file.source_file, group.key, detail)
        return
    if question is None or not question.is_question:
        for post in (*([question] if question else []), *posts.values()):
            detail = f"its question {group.key} is not in the file"
            yield Rejected("orphan_answer", file.source_file, post.id, detail)
        return
    if rules.min_question_score is not None and question.score < rules.min_question_score:
        yield Rejected("low_score", file.source_file, question.id, f"score {question.score}")
        return
    answers: list[_Post] = []
    for post in sorted(posts.values(), key=lambda p: _rank(p, question)):
        if rules.min_answer_score is not None and post.score < rules.min_answer_score:
            yield Rejected("answer_low_score", file.source_file, post.id, f"score {post.score}")
        else:
            answers.append(post)
    if len(answers) < rules.min_answers:
        yield Rejected("few_answers", file.source_file, question.id, f"{len(answers)} answers")
        return
    yield from _document(question, answers, file, site)


def _rank(answer: _Post, question: _Post) -> tuple[int, bool, str, int]:
    """Sort key of answers: by numeric score, highest first."""
    return -answer.score, answer.id != question.accepted, answer.created, answer.id


def _document(
    question: _Post, answers: Sequence[_Post], file: InputFile, site: str
) -> Iterator[Document | Rejected]:
    """ "Q: " title, body; "A: " each answer; separated by blank lines."""
    texts: list[str] = []
    licenses = {question.license}
    for post in (question, *answers):
        try:
            text = html_to_text(clean(post.body))
        except PostError as error:
            yield Rejected(error.reason, file.source_file, post.id, str(error))
            if post.is_question:
                return
            continue
        if post.is_question:
            text = "\n\n".join(filter(None, (clean(post.title).strip(), text)))
        if text:
            texts.append(f"{'Q' if post.is_question else 'A'}: {text}")
            licenses.add(post.license)
    yield Document(
        text=clean("\n\n".join(texts)),
        source_file=file.source_file,
        offset=question.id,
        url=_url(site, question.id),
        title=clean(question.title).strip() or None,
        license=" AND ".join(sorted(licenses)),
        timestamp=question.created or None,
    )


def _url(site: str, question: int) -> str | None:
    """URL of a question; None where the site is unknown: host names have a dot."""
    return f"https://{site}/questions/{question}" if "." in site else None

import gzip
import io
import stat
import tarfile
import zipfile

import pytest

from nearkin.data.unpack import unpack
from nearkin.errors import InputError
from nearkin.progress import Bar

GOOD = {
    "set/list.txt": b"1 a\n",
    "set/images/a.jpg": bytes(range(256)) * 20,
    "set/images/b.jpg": b"",
    "notes.txt": b"?",
}


def make_tgz(path, files=GOOD, odd=()):
    """Files, then further members as they come."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o4777
            tar.addfile(member, io.BytesIO(content))
        for member in odd:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def make_zip(path, files=GOOD, odd=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/images/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
        for member in odd:
            archive.writestr(member, b"/etc")
    return path


def tar_member(name, kind=tarfile.REGTYPE, link="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


def zip_member(name, kind=stat.S_IFREG):
    member = zipfile.ZipInfo("placeholder")
    member.filename = name  # the constructor would tidy it
    member.external_attr = (kind | 0o644) << 16
    return member


def everything(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def place(tmp_path):
    """A folder for the archive; whatever appears outside it escaped."""
    root = tmp_path / "a" / "b" / "root"
    root.mkdir(parents=True)
    return root


@pytest.mark.parametrize(("make", "name"), [(make_tgz, "x.tgz"), (make_zip, "x.zip")])
def test_only_the_wanted_folder_is_kept_with_the_permissions_of_new_files(place, make, name):
    assert unpack(make(place / name), "set", Bar) == place / "set"
    assert everything(place) == ["set", "set/images", "set/images/a.jpg", "set/images/b.jpg", "set/list.txt", name]
    for path, content in GOOD.items():
        if path.startswith("set/"):
            assert (place / path).read_bytes() == content
            assert (place / path).stat().st_mode & 0o7111 == 0


HOSTILE_NAMES = [
    "/tmp/escaped",
    "../escaped",
    "set/../../escaped",
    "..",
    "\\escaped",
    "set\\..\\..\\escaped",
    "C:\\escaped",
    "c:x",
]
HOSTILE = [
    *((make_tgz, tar_member(name, size=1)) for name in HOSTILE_NAMES),
    *((make_zip, zip_member(name)) for name in HOSTILE_NAMES),
    (make_tgz, tar_member("../dir", tarfile.DIRTYPE)),
    (make_tgz, tar_member("set/link", tarfile.SYMTYPE, "/etc")),
    (make_tgz, tar_member("set/link", tarfile.SYMTYPE, "list.txt")),
    (make_tgz, tar_member("set/link", tarfile.LNKTYPE, "set/list.txt")),
    (make_tgz, tar_member("set/link", tarfile.LNKTYPE, "../../../outside")),
    (make_tgz, tar_member("set/device", tarfile.CHRTYPE)),
    (make_tgz, tar_member("set/device", tarfile.BLKTYPE)),
    (make_tgz, tar_member("set/pipe", tarfile.FIFOTYPE)),
    (make_zip, zip_member("set/link", stat.S_IFLNK)),
    (make_zip, zip_member("set/device", stat.S_IFCHR)),
    (make_zip, zip_member("../dir/")),
]


@pytest.mark.parametrize(
    ("make", "member"), HOSTILE, ids=lambda each: getattr(each, "__name__", None) or each.__class__.__name__
)
def test_what_could_write_elsewhere_is_refused_and_nothing_is_left(place, tmp_path, make, member):
    (tmp_path / "outside").write_text("precious")
    archive = make(place / f"x.{make.__name__[5:]}", odd=[member])
    name = getattr(member, "filename", None) or member.name
    before = everything(tmp_path)
    with pytest.raises(InputError, match="nothing was unpacked, bring the original archive") as refused:
        unpack(archive, "set", Bar)
    assert repr(name) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert everything(tmp_path) == before


def test_a_link_is_not_followed_by_what_comes_after_it(place, tmp_path):
    odd = [tar_member("set/way", tarfile.SYMTYPE, str(tmp_path)), tar_member("set/way/escaped", size=1)]
    with pytest.raises(InputError, match="'set/way'"):
        unpack(make_tgz(place / "x.tgz", odd=odd), "set", Bar)
    assert not (tmp_path / "escaped").exists()


def truncated(make, name, share):
    def damage(place):
        path = make(place / name, {f"set/{i}.jpg": bytes(range(i, 256)) * 40 for i in range(40)})
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return damage


def flipped(make, name):
    def damage(place):
        path = make(place / name, {"set/a.jpg": b"abcdefgh" * 9999})
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 255
        path.write_bytes(content)
        return path

    return damage


def text(name):
    def damage(place):
        (place / name).write_text("<html>not found</html>")
        return place / name

    return damage


def file_as_folder(place):
    return make_tgz(place / "x.tgz", {"set/a": b"1", "set/a/b": b"2"})


def folder_as_file(place):
    return make_tgz(place / "x.tgz", {"set/a/b": b"1", "set/a": b"2"})


def cut_inside(place):
    """A tar that ends in the middle of a file, in a gzip that is whole."""
    whole = gzip.decompress(make_tgz(place / "x.tgz").read_bytes())
    (place / "x.tgz").write_bytes(gzip.compress(whole[: whole.index(bytes(range(256))) + 1000]))
    return place / "x.tgz"


def wrong_checksum(place):
    """A gzip whose last bytes are wrong, read to its end for want of the two blocks that close a tar."""
    whole = gzip.decompress(make_tgz(place / "x.tgz", {"set/a": b"1"}).read_bytes())
    content = bytearray(gzip.compress(whole[:1024]))
    content[-6] ^= 255
    (place / "x.tgz").write_bytes(content)
    return place / "x.tgz"


def zeroed(place):
    """A gzip whose middle is zero, where a tar is read as ended."""
    whole = bytearray(gzip.decompress(make_tgz(place / "x.tgz", {f"set/{i}": b"1" for i in range(9)}).read_bytes()))
    with gzip.open(place / "x.tgz", "wb", compresslevel=0) as file:
        file.write(whole)
    content = bytearray((place / "x.tgz").read_bytes())
    content[4 * 1024 : -8] = bytes(len(content) - 4 * 1024 - 8)
    (place / "x.tgz").write_bytes(content)
    return place / "x.tgz"


def cut_short(place):
    """All of the tar, without the last bytes of its gzip."""
    path = make_tgz(place / "x.tgz")
    path.write_bytes(path.read_bytes()[:-10])
    return path


def flipped_lzma(place):
    with zipfile.ZipFile(place / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("set/a.jpg", bytes(range(256)) * 40)
    content = bytearray((place / "x.zip").read_bytes())
    content[50:70] = b"\xff" * 20
    (place / "x.zip").write_bytes(content)
    return place / "x.zip"


@pytest.mark.parametrize(
    "damage",
    [
        zeroed,
        cut_short,
        flipped_lzma,
        *(truncated(make_tgz, "x.tgz", share) for share in (0, 0.1, 0.5, 0.99)),
        *(truncated(make_zip, "x.zip", share) for share in (0, 0.1, 0.5, 0.99)),
        flipped(make_tgz, "x.tgz"),
        flipped(make_zip, "x.zip"),
        text("x.tgz"),
        text("x.zip"),
        file_as_folder,
        folder_as_file,
        cut_inside,
        wrong_checksum,
    ],
)
def test_a_damaged_archive_is_one_line_and_nothing_is_left(place, damage):
    archive = damage(place)
    with pytest.raises(InputError, match=r"is truncated or damaged \(.*\); bring it again") as refused:
        unpack(archive, "set", Bar)
    assert "\n" not in str(refused.value)
    assert everything(place) == [archive.name]


def test_an_encrypted_archive_is_refused(place):
    path = make_zip(place / "x.zip")
    content = path.read_bytes()
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # a bit in the header of each file, and in the list of them
        pieces = content.split(mark)
        content = mark.join([pieces[0], *(each[: flags - 4] + b"\1" + each[flags - 3 :] for each in pieces[1:])])
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        unpack(path, "set", Bar)


@pytest.mark.parametrize("files", [{"other/a.jpg": b"1"}, {"set": b"a file"}])
def test_an_archive_without_the_folder_is_refused(place, files):
    with pytest.raises(InputError, match="holds no folder set"):
        unpack(make_tgz(place / "x.tgz", files), "set", Bar)
    assert everything(place) == ["x.tgz"]


def test_what_a_killed_command_left_is_cleared(place):
    left = place / ".set.unpacking" / "set" / "stale.jpg"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    unpack(make_tgz(place / "x.tgz"), "set", Bar)
    assert not (place / "set" / "stale.jpg").exists()
    assert not (place / ".set.unpacking").exists()

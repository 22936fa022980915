"""Small files of every kind, and the pixels that PIL makes of them, for the tests."""
import io, json, struct, zlib
import numpy as np
from PIL import Image, ImageOps
D = "tests/data/pictures"
rng = np.random.default_rng(1)
def chunk(n, b): return struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b))
def png(w, h, depth, kind, rows, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")
files = {}
w, h = 5, 3
def rows(channels, depth): return [bytes(rng.integers(0, 256, w * channels * depth // 8, dtype=np.uint8)) for _ in range(h)]
files["rgb16.png"] = png(w, h, 16, 2, rows(3, 16))
files["rgba16.png"] = png(w, h, 16, 6, rows(4, 16))
files["rgba8.png"] = png(w, h, 8, 6, rows(4, 8))
files["grey8.png"] = png(w, h, 8, 0, rows(1, 8))
files["greya8.png"] = png(w, h, 8, 4, rows(2, 8))
files["greya16.png"] = png(w, h, 16, 4, rows(2, 16))
files["grey1.png"] = png(8, h, 1, 0, [bytes([b]) for b in (0x5a, 0xf0, 0x33)])
files["grey4.png"] = png(8, h, 4, 0, [bytes(rng.integers(0, 256, 4, dtype=np.uint8)) for _ in range(h)])
pal = bytes(rng.integers(0, 256, 48, dtype=np.uint8)); idx = [bytes(rng.integers(0, 16, w, dtype=np.uint8)) for _ in range(h)]
files["palette.png"] = png(w, h, 8, 3, idx, chunk(b"PLTE", pal))
files["palette_alpha.png"] = png(w, h, 8, 3, idx, chunk(b"PLTE", pal) + chunk(b"tRNS", bytes(rng.integers(0, 256, 10, dtype=np.uint8))))
r = rows(3, 8); files["rgb_key.png"] = png(w, h, 8, 2, r, chunk(b"tRNS", struct.pack(">HHH", *r[1][6:9])))
r = rows(1, 8); files["grey_key.png"] = png(w, h, 8, 0, r, chunk(b"tRNS", struct.pack(">H", r[1][2])))
base = Image.fromarray(rng.integers(0, 256, (3, 5, 3), dtype=np.uint8))
smooth = Image.fromarray(np.fromfunction(lambda y, x, c: 40 + 5 * x + 6 * y + 30 * c, (16, 24, 3)).astype(np.uint8))
def save(im, fmt, **k):
    b = io.BytesIO(); im.save(b, fmt, **k); return b.getvalue()
def exif(o):
    e = Image.Exif(); e[0x112] = o; return e
for o in range(1, 9): files[f"turned{o}.png"] = save(base, "PNG", exif=exif(o))
files["turned6.jpg"] = save(smooth, "JPEG", quality=95, subsampling=0, exif=exif(6))
files["grey.jpg"] = save(smooth.convert("L"), "JPEG", quality=95)
files["progressive.jpg"] = save(smooth, "JPEG", quality=95, subsampling=0, progressive=True)
files["subsampled.jpg"] = save(smooth, "JPEG", quality=90, subsampling=2)
files["cmyk.jpg"] = save(smooth.convert("CMYK"), "JPEG", quality=95)
files["lossless.webp"] = save(base, "WEBP", lossless=True)
ra = Image.fromarray(rng.integers(0, 256, (3, 5, 4), dtype=np.uint8))
files["lossless_alpha.webp"] = save(ra, "WEBP", lossless=True, exact=True)
files["lossy.webp"] = save(smooth, "WEBP", quality=90)
la = smooth.convert("RGBA"); la.putalpha(Image.fromarray(np.fromfunction(lambda y, x: 10 * x + y, (16, 24)).astype(np.uint8)))
files["lossy_alpha.webp"] = save(la, "WEBP", quality=90)
files["turned6.webp"] = save(base, "WEBP", lossless=True, exif=exif(6))
files["moving.webp"] = save(base, "WEBP", lossless=True, save_all=True, append_images=[base.transpose(0)], duration=10)
files["moving.png"] = save(base, "PNG", save_all=True, append_images=[base.transpose(0)], duration=10)
out = {}
for name, data in files.items():
    open(f"{D}/{name}", "wb").write(data)
    im = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if "A" in im.getbands() or im.info.get("transparency") is not None:
        im = im.convert("RGBA"); im = Image.alpha_composite(Image.new("RGBA", im.size, (255, 255, 255, 255)), im)
    im = im.convert("RGB")
    out[name] = {"width": im.width, "height": im.height, "rgb": list(im.tobytes())}
json.dump(out, open(f"{D}/expected.json", "w"), separators=(",", ":"))

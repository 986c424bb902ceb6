/**
 * Byte-level BPE: a text to token ids, the same ids as tinyzo's and Hugging Face's tokenizers.
 *
 * A text is cut into words by GPT-2's pattern, and a word into bytes (Radford et al. 2019,
 * section 2.2). The bytes are merged pair by pair, the pair learnt first before all others
 * (Sennrich et al. 2016, section 3.2).
 */

const SPACE = "\\p{White_Space}";
const WORDS = new RegExp(
  "'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}+" +
    `| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  "gu",
);

const SPECIAL = /^<(s|\/s|pad|unk|mask)>$/;

/** The character that spells each byte: itself if it can be printed, else one from U+0100 on. */
function byteAlphabet() {
  const isPrintable = (byte) =>
    (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad && byte < 0x100);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(isPrintable(byte) ? byte : next++),
  );
}

const SPELLING = byteAlphabet();
const BYTE_OF = new Map(SPELLING.map((character, byte) => [character, byte]));

export class Tokenizer {
  /**
   * vocabulary: vocab.json; merges: the text of merges.txt
   *
   * differs: from tinyzo's where a text spells a special token, "<mask>" say. Here these are plain
   *          characters, since a row has one mask, and that is the template's
   */
  constructor(vocabulary, merges) {
    this.ids = vocabulary;
    this.pieces = new Map(Object.entries(vocabulary).map(([piece, id]) => [id, piece]));
    const pairs = merges.split("\n").filter((line) => line && !line.startsWith("#version"));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
  }

  encode(text) {
    return (text.match(WORDS) ?? []).flatMap((word) => this.#encodeWord(word));
  }

  /** The text that ids stand for; special tokens are left out. */
  decode(ids) {
    const pieces = ids.map((id) => this.pieces.get(id)).filter((piece) => !SPECIAL.test(piece));
    const bytes = Array.from(pieces.join(""), (character) => BYTE_OF.get(character));
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }

  #encodeWord(word) {
    const pieces = Array.from(new TextEncoder().encode(word), (byte) => SPELLING[byte]);
    for (let at = this.#firstPair(pieces); at >= 0; at = this.#firstPair(pieces)) {
      pieces.splice(at, 2, pieces[at] + pieces[at + 1]);
    }
    return pieces.map((piece) => this.ids[piece]);
  }

  /** The place of the pair that was learnt before all others in a word; -1: none is known. */
  #firstPair(pieces) {
    let least = Infinity;
    let found = -1;
    for (let at = 0; at + 1 < pieces.length; at++) {
      const rank = this.ranks.get(`${pieces[at]} ${pieces[at + 1]}`) ?? Infinity;
      if (rank < least) {
        least = rank;
        found = at;
      }
    }
    return found;
  }
}

/**
 * A text of the user's as a row of the task.
 *
 * about: tinyzo.json; first: the id that rows begin with
 * returns: token ids; null for a task with other fields than {text}
 */
export function encodeRow(about, tokenizer, first, text) {
  const parts = about.template.split("{text}");
  if (parts.length !== 2 || parts.join("").includes("{")) {
    return null;
  }
  if (about.mask_id === null) {
    return [first, ...tokenizer.encode(parts.join(text).replace(/^ +| +$/g, ""))];
  }
  // With a mask, each stretch is encoded by itself, and a space belongs to the text after it.
  const [, before, space] = /^(.*?)( ?)$/s.exec(parts[0]);
  const literal = (stretch) =>
    stretch
      .split(/\s*<mask>/)
      .map((piece) => tokenizer.encode(piece))
      .flatMap((ids, place) => (place > 0 ? [about.mask_id, ...ids] : ids));
  const last = tokenizer.ids["</s>"];
  return [first, ...literal(before), ...tokenizer.encode(space + text), ...literal(parts[1]), last];
}

// The data block: arrays unpacked once, sequences and values looked up on demand.

const NO_VALUE = -32768;

async function unpack({ kind, length, data }) {
  const packed = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (kind === "bits") return Uint8Array.from({ length }, (_, i) => (bytes[i >> 3] >> (i & 7)) & 1);
  if (kind === "u1") return bytes;
  const numbers = kind === "u4" ? new Uint32Array(length) : kind === "i2" ? new Int16Array(length) : new Uint16Array(length);
  for (let plane = 0, at = 0; plane < numbers.BYTES_PER_ELEMENT; plane++) {
    for (let i = 0; i < length; i++, at++) numbers[i] |= bytes[at] << (8 * plane);
  }
  return numbers;
}

async function unpackAll(fields) {
  const entries = Object.entries(fields).map(async ([name, value]) => [name, value?.kind ? await unpack(value) : value]);
  return Object.fromEntries(await Promise.all(entries));
}

/** What the page shows: examples with their sequences, values and masks. Response tokens are counted through all sequences. */
class Sample {
  static async read(packed) {
    const made = new Sample();
    made.vocabulary = packed.vocabulary;
    made.tokenIds = packed.token_ids;
    [made.fields, made.lists, made.keeps, made.tokens, made.isResponse] = await Promise.all([
      unpackAll(packed.examples), unpackAll(packed.sequences), unpackAll(packed.keeps), unpack(packed.tokens), unpack(packed.is_response),
    ]);
    made.columns = {};
    await Promise.all(Object.entries(packed.values).map(async ([name, { codes, unit, step }]) => {
      made.columns[name] = { codes: await unpack(codes), unit, step };
    }));
    made.arrange();
    return made;
  }

  arrange() {
    const { fields, lists } = this;
    this.examples = fields.id.map((id, number) => ({
      number, id, source: fields.source_names[fields.source[number]], file: fields.file_names[fields.file[number]],
      line: fields.line[number], multiplicity: fields.multiplicity[number], margin: fields.margin?.[number] ?? null, weight: fields.weight?.[number] ?? null,
      sequences: [],
    }));
    let token = 0;
    let response = 0;
    lists.example.forEach((example, number) => {
      const sequence = {
        number, example: this.examples[example], branch: lists.branch_names[lists.branch[number]], firstPosition: lists.first_position[number],
        begin: token, end: token + lists.num_tokens[number], responseBegin: response,
      };
      for (token = sequence.begin; token < sequence.end; token++) response += this.isResponse[token];
      sequence.responseEnd = response;
      sequence.numResponse = response - sequence.responseBegin;
      sequence.example.sequences.push(sequence);
    });
  }

  text(token) {
    return this.vocabulary[this.tokens[token]];
  }

  /** A value, or null where there is none. */
  value(column, response) {
    const { codes, unit, step } = this.columns[column];
    return codes[response] === NO_VALUE ? null : unit * Math.sinh(step * codes[response]);
  }

  isKept(policy, response) {
    return this.keeps[policy] ? this.keeps[policy][response] === 1 : null;
  }

  /** Mean over the response tokens that have a value; null where none has. */
  mean(column, sequence) {
    let sum = 0;
    let count = 0;
    for (let i = sequence.responseBegin; i < sequence.responseEnd; i++) {
      const value = this.value(column, i);
      if (value === null) continue;
      sum += value;
      count += 1;
    }
    return count ? sum / count : null;
  }

  keptShare(policy, sequence) {
    const keep = this.keeps[policy];
    if (!keep || !sequence.numResponse) return null;
    let kept = 0;
    for (let i = sequence.responseBegin; i < sequence.responseEnd; i++) kept += keep[i];
    return kept / sequence.numResponse;
  }

  /** All text of a sequence as one string, with the place where each token begins; made when first searched. */
  plain(sequence) {
    if (!sequence.plain) {
      const starts = new Uint32Array(sequence.end - sequence.begin + 1);
      let text = "";
      for (let i = sequence.begin; i < sequence.end; i++) {
        starts[i - sequence.begin] = text.length;
        // Lower-casing must not move later places: a letter whose lower case is longer stays as it is.
        const raw = this.text(i) ?? "";
        const lower = raw.toLowerCase();
        text += lower.length === raw.length ? lower : raw;
      }
      starts[sequence.end - sequence.begin] = text.length;
      sequence.plain = { text, starts };
    }
    return sequence.plain;
  }

  /** The beginning of the text between two tokens, in one line. */
  preview(begin, end, numCharacters) {
    let text = "";
    for (let i = begin; i < end && text.length <= numCharacters; i++) text += this.text(i) ?? "";
    const line = text.replace(HIDDEN, "").replace(/\s+/g, " ").trim();
    return line.length > numCharacters ? `${line.slice(0, numCharacters)}…` : line;
  }
}

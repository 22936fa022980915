/** The interface of the WebAssembly module, as the worker uses it. wasm-bindgen writes its own beside the module. */
export default function init(module?: unknown): Promise<unknown>;

export interface FileEntry {
  path: string;
  size: number;
  /** Fills `into` with the bytes from `offset` on, at once. Throws where it cannot. */
  read(offset: number, into: Uint8Array): void;
}
export type LoadProgress = { phase: 'reserving' | 'moving' | 'finishing'; done: number; total: number };
type LoadOptions = import('./types.js').LoadOptions;
type AnswerOptions = import('./types.js').AnswerOptions;
type Event = import('./types.js').Event;
type Part = { type: 'text'; text: string } | { type: 'image' | 'audio'; data: Uint8Array };

type Open<T> = (
  files: FileEntry[],
  path: string,
  options: LoadOptions,
  cancel: Cancel,
  onProgress: (progress: LoadProgress) => void,
) => Promise<T>;

export class Cancel {
  cancel(): void;
  free(): void;
}
export function adapters(): Promise<string[]>;
export function doctor(): Promise<object>;
export function memoryPlan(files: FileEntry[], path: string, options: LoadOptions): Promise<object>;
export class Model {
  static open: Open<Model>;
  report(): object;
  conversation(options: AnswerOptions): Conversation;
  recover(cancel: Cancel, onProgress: (progress: LoadProgress) => void): Promise<void>;
  loseDevice(): void;
  free(): void;
}
export class Generator {
  static open: Open<Generator>;
  generate(prompt: Uint32Array, count: number, pictures: Uint8Array[], sounds: Uint8Array[], cancel: Cancel): Promise<Uint32Array>;
  logits(prompt: Uint32Array, next: Uint32Array, pictures: Uint8Array[], sounds: Uint8Array[], cancel: Cancel): Promise<Float32Array>;
  free(): void;
}
export class Conversation {
  send(content: string | Part[], cancel: Cancel): Promise<void>;
  next(): Promise<Event | undefined>;
  setOptions(options: AnswerOptions): void;
  messages(): { role: string; text: string }[];
  free(): void;
}
export class Embedder {
  static open: Open<Embedder>;
  embed(texts: string[], task: string | undefined, cancel: Cancel): Promise<Float32Array[]>;
  dimensions(): number;
  free(): void;
}
export class Sha256 {
  update(bytes: Uint8Array): void;
  hex(): string;
  free(): void;
}

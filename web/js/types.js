/**
 * The types of the package. There is no code here.
 *
 * @typedef {object} DownloadProgress
 * @property {'download'} stage
 * @property {string} file The file that is being fetched.
 * @property {number} done Bytes of all files that are here.
 * @property {number} total Bytes of all files, 0 where the server does not say.
 * @property {number} bytesPerSecond Over the last seconds.
 *
 * @typedef {object} WaitProgress Another tab is downloading the same model.
 * @property {'waiting'} stage
 * @property {number} done
 * @property {number} total
 *
 * @typedef {object} LoadProgress
 * @property {'load'} stage
 * @property {'reserving' | 'moving' | 'finishing'} phase
 * @property {number} done
 * @property {number} total
 * @property {number} bytesPerSecond
 *
 * @typedef {DownloadProgress | WaitProgress | LoadProgress} Progress
 *
 * @typedef {string | URL | Blob | File[] | FileList} Source
 * A URL of a `.gguf` file, of a folder or of a safetensors index; a name on the Hugging Face Hub, `owner/name` or
 * `owner/name/file.gguf`; a GGUF file; or the files of a folder.
 *
 * @typedef {object} SourceOptions
 * @property {string} [token] An access token of the Hub. It is sent to the Hub's own origin alone.
 * @property {string} [revision] A branch, tag or commit on the Hub; `main` unless given.
 * @property {string} [hub] The Hub's address, for a mirror.
 * @property {string} [sha256] The SHA-256 of the one file that the source names, in hexadecimal digits.
 * @property {boolean} [projector] `false` leaves out the projector (`mmproj`) beside a GGUF file of the Hub.
 * @property {boolean} [cache] `false` keeps nothing: weights are read by byte ranges, on every load.
 * @property {boolean} [verify] `true` compares a complete copy with its checksums before it serves.
 * @property {boolean} [revalidate] `true` asks the server whether a complete copy is still the newest. A newer version
 * takes its place once it is complete. Otherwise a complete copy serves without a request, also where `main` has moved.
 * @property {number} [pieceBytes] Bytes of a piece of a download, 16 MiB unless given. An interrupted download loses
 * at most one piece.
 *
 * @typedef {object} LoadOptions
 * @property {'gpu' | 'cpu'} [device]
 * @property {'auto' | 'portable'} [kernels] `portable` takes the kernels for GPUs also where the CPU computes: for tests.
 * @property {number} [context] Tokens that a conversation may hold.
 * @property {'never' | 'lazy' | 'load'} [towers] When the towers for pictures and sounds are loaded.
 *
 * @typedef {object} CallOptions
 * @property {(progress: Progress) => void} [onProgress]
 * @property {AbortSignal} [signal]
 *
 * @typedef {object} Media
 * @property {Uint8Array[]} [pictures] Encoded files, in the order of their places in a prompt.
 * @property {Uint8Array[]} [sounds]
 *
 * @typedef {SourceOptions & LoadOptions & CallOptions} OpenOptions
 *
 * @typedef {object} AnswerOptions
 * @property {number} [maxTokens]
 * @property {number} [temperature] 0 is greedy.
 * @property {number} [topK]
 * @property {number} [topP]
 * @property {number} [seed]
 * @property {string[]} [stop]
 * @property {object} [schema] A JSON schema. The answer is JSON that it allows.
 * @property {string} [system] Instructions before the first message; of a conversation, not of one answer.
 *
 * @typedef {Omit<AnswerOptions, 'system'> & { signal?: AbortSignal }} SendOptions
 *
 * @typedef {{ type: 'text', text: string }
 *   | { type: 'image', data: Blob | ArrayBuffer | Uint8Array }
 *   | { type: 'audio', data: Blob | ArrayBuffer | Uint8Array }} Part
 * A picture or a sound is an encoded file, as it lies on disk.
 *
 * @typedef {object} Usage
 * @property {number} promptTokens
 * @property {number} cachedTokens
 * @property {number} completionTokens
 *
 * @typedef {{ type: 'prompt', done: number, total: number }
 *   | { type: 'text', text: string }
 *   | { type: 'thought', text: string }
 *   | { type: 'toolCall', name: string, arguments: any }
 *   | { type: 'brokenToolCall', text: string, problem: string }
 *   | { type: 'end', reason: 'turn' | 'toolResponse' | 'stop' | 'length' | 'cancelled', usage: Usage }} Event
 *
 * @typedef {object} CachedModel
 * @property {string} source
 * @property {number} bytes Bytes that it takes, those of a newer version that is not complete too.
 * @property {number} total Bytes of the whole model, 0 where the server does not say.
 * @property {boolean} complete
 * @property {string[]} files
 *
 * @typedef {object} Message
 * @property {string} role
 * @property {string} text
 */
export {};

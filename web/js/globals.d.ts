/** What a dedicated worker has and a page has not. */
interface FileSystemSyncAccessHandle {
  read(into: AllowSharedBufferSource, options?: { at?: number }): number;
  write(from: BufferSource, options?: { at?: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
  /** Missing where a handle cannot be shared. */
  readonly mode?: string;
}
declare const FileSystemSyncAccessHandle: { prototype: FileSystemSyncAccessHandle };
interface FileSystemFileHandle {
  createSyncAccessHandle(options?: { mode?: string }): Promise<FileSystemSyncAccessHandle>;
}
declare class FileReaderSync {
  readAsArrayBuffer(blob: Blob): ArrayBuffer;
}

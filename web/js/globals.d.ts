/** What a dedicated worker has and a page has not. */
interface FileSystemSyncAccessHandle {
  read(into: BufferSource, options?: { at?: number }): number;
  write(from: BufferSource, options?: { at?: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}
interface FileSystemFileHandle {
  createSyncAccessHandle(): Promise<FileSystemSyncAccessHandle>;
}
declare class FileReaderSync {
  readAsArrayBuffer(blob: Blob): ArrayBuffer;
}

//! Files of sound, decoded packet by packet through `symphonia`.

use std::{
    any::Any,
    io::{Cursor, ErrorKind},
    panic::{AssertUnwindSafe, catch_unwind},
};

use symphonia::{
    core::{
        audio::GenericAudioBufferRef,
        codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions},
        errors::Error,
        formats::{
            FormatId, FormatReader, Track, TrackType,
            probe::Hint,
            well_known::{FORMAT_ID_FLAC, FORMAT_ID_MP3, FORMAT_ID_WAVE},
        },
        io::MediaSourceStream,
        packet::Packet,
    },
    default::{get_codecs, get_probe},
};

use super::{
    AudioLimits,
    resample::{Mono, check_layout},
};
use crate::error::AudioError;

#[cfg(test)]
mod tests;

/// Decodes a file to its mixed-down samples at 16 kHz.
pub(super) fn decode(bytes: &[u8], limits: &AudioLimits) -> Result<Mono, AudioError> {
    check_container(bytes)?;
    check_wav_channels(bytes, limits)?;
    // The decoders are other crates'. Nothing outlives a panic of theirs but the bytes, which they cannot change.
    catch_unwind(AssertUnwindSafe(|| File::open(bytes, limits)?.decode())).unwrap_or_else(|payload| {
        Err(AudioError::Header { problem: format!("the decoder panicked: {}", panic_message(payload.as_ref())) })
    })
}

/// A file that is being decoded.
struct File<'a> {
    reader: Box<dyn FormatReader + 'a>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// Frames that the header promises, where such promises are kept.
    promised: Option<u64>,
    /// A WAV file whose header leaves the length open, as programs write it into pipes.
    open_ended: bool,
    /// The time at which the last packet ended, in units of the track.
    end: Option<i64>,
    limits: &'a AudioLimits,
    /// What was decoded, from the first packet on.
    mono: Option<Mono>,
    /// One packet's interleaved samples.
    packet: Vec<f32>,
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8], limits: &'a AudioLimits) -> Result<Self, AudioError> {
        let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
        let reader = get_probe().probe(&Hint::new(), stream, Default::default(), Default::default()).map_err(header)?;
        let container = reader.format_info().short_name;
        let format = reader.format_info().format;
        let no_track = || AudioError::NoTrack { container: container.into() };
        let track = reader.default_track(TrackType::Audio).ok_or_else(no_track)?;
        let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio()).ok_or_else(no_track)?;
        check_parameters(parameters, limits)?;

        // Without an encoder's note of its delay, the length of an MP3 track is guessed from its bit rate, and would
        // cut off the end of the sound.
        let gapless = format != FORMAT_ID_MP3 || track.delay.is_some();
        let options = AudioDecoderOptions::default().gapless(gapless).verify(!limits.allow_damaged);
        let decoder = get_codecs().make_audio_decoder(parameters, &options).map_err(|error| match error {
            Error::Unsupported(problem) => {
                AudioError::Codec { container: container.into(), codec: format!("codec {} ({problem})", parameters.codec) }
            }
            other => header(other),
        })?;
        let track_id = track.id;
        let open_ended = format == FORMAT_ID_WAVE && track.num_frames.is_none();
        let promised = promised_frames(track, format).filter(|_| !limits.allow_damaged);
        check_promise(promised, parameters, limits)?;
        Ok(Self { end: None, reader, decoder, track: track_id, promised, open_ended, limits, mono: None, packet: Vec::new() })
    }

    fn decode(mut self) -> Result<Mono, AudioError> {
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(Error::ResetRequired) => return Err(self.changed("a second stream".into(), "one stream".into())),
                Err(_) if self.limits.allow_damaged => break,
                Err(error) if self.open_ended && ends_early(&error) => break,
                Err(error) => return Err(self.damaged(&error)),
            };
            if packet.track_id != self.track {
                continue;
            }
            self.check_gap(&packet)?;
            match self.decoder.decode(&packet) {
                Ok(buffer) => {
                    self.packet.clear();
                    let spec = Spec::of(&buffer);
                    buffer.copy_to_vec_interleaved(&mut self.packet);
                    self.take(spec)?;
                }
                Err(_) if self.limits.allow_damaged => {}
                Err(error) => return Err(self.damaged(&error)),
            }
        }
        self.check_end()?;
        self.mono.ok_or(AudioError::Empty)
    }

    /// Takes the packet's samples.
    fn take(&mut self, spec: Spec) -> Result<(), AudioError> {
        if self.packet.is_empty() {
            return Ok(());
        }
        if let Some(mono) = &mut self.mono {
            let expected = Spec { rate: mono.rate(), channels: mono.channels() };
            if spec != expected {
                return Err(self.changed(spec.to_string(), expected.to_string()));
            }
            return mono.push(&self.packet);
        }
        let mut mono = Mono::new(spec.rate, spec.channels, self.limits)?;
        mono.push(&self.packet)?;
        self.mono = Some(mono);
        Ok(())
    }

    /// Refuses a packet that begins later than the one before it ended. Readers skip pages and frames whose checksums
    /// do not match, and say nothing.
    fn check_gap(&mut self, packet: &Packet) -> Result<(), AudioError> {
        let begin = packet.pts.get();
        let end = self.end.replace(begin.saturating_add_unsigned(packet.block_dur().get()));
        if end.is_some_and(|end| begin > end) && !self.limits.allow_damaged {
            let problem = "packets are missing here, or have wrong checksums".into();
            return Err(AudioError::Damaged { seconds: self.seconds(), problem });
        }
        Ok(())
    }

    /// Whether all that the header promises was there.
    fn check_end(&mut self) -> Result<(), AudioError> {
        let found = self.mono.as_ref().map_or(0, Mono::taken);
        if let Some(promised) = self.promised.filter(|promised| found < *promised) {
            let problem = format!("it ends after {found} samples a channel, its header says {promised} at least");
            return Err(AudioError::Damaged { seconds: self.seconds(), problem });
        }
        if !self.limits.allow_damaged && self.decoder.finalize().verify_ok == Some(false) {
            let problem = "the decoded samples have another checksum than the header says".into();
            return Err(AudioError::Damaged { seconds: self.seconds(), problem });
        }
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.mono.as_ref().map_or(0.0, Mono::seconds)
    }

    fn damaged(&self, error: &Error) -> AudioError {
        AudioError::Damaged { seconds: self.seconds(), problem: said(error) }
    }

    fn changed(&self, found: String, expected: String) -> AudioError {
        AudioError::Changed { seconds: self.seconds(), found, expected }
    }
}

/// What must stay the same throughout a file.
#[derive(Clone, Copy, PartialEq)]
struct Spec {
    rate: u32,
    channels: usize,
}

impl Spec {
    fn of(buffer: &GenericAudioBufferRef<'_>) -> Self {
        Self { rate: buffer.spec().rate(), channels: buffer.spec().channels().count() }
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} channels at {} Hz", self.channels, self.rate)
    }
}

/// Refuses bytes that begin as no container that is read: the probe searches far into a file, and finds MP3 frames in
/// whatever is long enough.
fn check_container(bytes: &[u8]) -> Result<(), AudioError> {
    let other = match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => return Ok(()),
        [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] | [b'I', b'D', b'3', ..] => return Ok(()),
        // The eleven sync bits and layer III.
        [0xff, second, ..] if second & 0xe6 == 0xe2 => return Ok(()),
        [] => "no bytes",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "`ftyp`, as MP4 and M4A files do",
        [b'F', b'O', b'R', b'M', ..] => "`FORM`, as AIFF files do",
        [b'R', b'F', b'6', b'4', ..] => "`RF64`, as WAV files beyond 4 GB do",
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "1A 45 DF A3, as Matroska and WebM files do",
        _ => "",
    };
    if other.is_empty() {
        let first = bytes.get(..8).unwrap_or(bytes);
        return Err(AudioError::Container { found: format!("`{}`", first.escape_ascii()) });
    }
    Err(AudioError::Container { found: other.into() })
}

/// Refuses WAV headers of more channels than are read: `symphonia`'s product of channels and bytes of a sample overflows.
fn check_wav_channels(bytes: &[u8], limits: &AudioLimits) -> Result<(), AudioError> {
    /// As many as a WAV file's channel mask has bits for.
    const MOST: usize = 32;
    let mut rest = bytes.strip_prefix(b"RIFF").and_then(|bytes| bytes.get(8..)).unwrap_or_default();
    while let Some((id, after)) = rest.split_first_chunk::<4>() {
        let Some((size, body)) = after.split_first_chunk::<4>() else {
            return Ok(());
        };
        if id == b"fmt "
            && let Some([_, _, low, high, ..]) = body.first_chunk::<4>()
        {
            let channels = usize::from(u16::from_le_bytes([*low, *high]));
            let most = limits.max_channels.min(MOST);
            if channels > most {
                return Err(AudioError::Channels { channels, most });
            }
        }
        // Chunks lie at even offsets.
        let size = u32::from_le_bytes(*size) as usize;
        rest = size.checked_add(size % 2).and_then(|size| body.get(size..)).unwrap_or_default();
    }
    Ok(())
}

/// Refuses what the header says to be beyond the limits, before anything is decoded.
fn check_parameters(parameters: &AudioCodecParameters, limits: &AudioLimits) -> Result<(), AudioError> {
    let Some(rate) = parameters.sample_rate else {
        return Ok(());
    };
    let channels = parameters.channels.as_ref().map_or(1, |channels| channels.count());
    check_layout(rate, channels, limits)
}

/// Refuses a file whose header promises more than the limits allow.
fn check_promise(promised: Option<u64>, parameters: &AudioCodecParameters, limits: &AudioLimits) -> Result<(), AudioError> {
    let most = parameters.sample_rate.map(|rate| u64::from(rate) * u64::from(limits.max_seconds));
    if promised.zip(most).is_some_and(|(promised, most)| promised > most) {
        return Err(AudioError::TooLong { most: limits.max_seconds });
    }
    Ok(())
}

/// The fewest frames that a whole file has, going by its header.
fn promised_frames(track: &Track, format: FormatId) -> Option<u64> {
    /// Two MP3 frames: some encoders count the one that holds the count.
    const SLACK: u64 = 2 * 1152;
    match format {
        FORMAT_ID_WAVE | FORMAT_ID_FLAC => track.num_frames,
        FORMAT_ID_MP3 if track.delay.is_some() => track.num_frames.map(|frames| frames.saturating_sub(SLACK)),
        // Estimated, or read from the last page.
        _ => None,
    }
}

fn header(error: Error) -> AudioError {
    AudioError::Header { problem: said(&error) }
}

fn ends_early(error: &Error) -> bool {
    matches!(error, Error::IoError(io) if io.kind() == ErrorKind::UnexpectedEof)
}

fn said(error: &Error) -> String {
    if ends_early(error) {
        return "it ends early".into();
    }
    error.to_string()
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

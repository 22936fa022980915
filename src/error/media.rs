//! Errors of pictures and sounds.

/// A picture that cannot be read, or that no model can see. Nothing was kept of it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A picture without pixels.
    #[error("the picture has {width}×{height} pixels, expected at least 1×1; leave it out, or give one that has some")]
    Empty {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A buffer whose length is not that of so many pixels.
    #[error(
        "{width}×{height} pixels of {channels} bytes are not {found} bytes; \
         give rows without padding, and width before height"
    )]
    Length {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes of a pixel.
        channels: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// A file that begins as no format that is read.
    #[error("the file begins with {found}, expected PNG, JPEG or WebP; convert it to one of them")]
    Unknown {
        /// The first bytes, or the format that they belong to.
        found: String,
    },
    /// A file that is damaged, cut off, or of a kind that is not decoded.
    #[error("the {format} file cannot be decoded: {problem}; fetch it again, or convert it")]
    Damaged {
        /// The format.
        format: &'static str,
        /// The fault.
        problem: String,
    },
    /// A picture with more pixels than the limits allow. No pixel was decoded.
    #[error(
        "the file has {width}×{height} pixels, at most {max_width}×{max_height} and {max_pixels} in all are read; \
         make it smaller, or raise ImageLimits"
    )]
    TooLarge {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Most pixels of a row.
        max_width: usize,
        /// Most rows.
        max_height: usize,
        /// Most pixels.
        max_pixels: usize,
    },
    /// A picture that takes more memory than the limits allow. No pixel was decoded.
    #[error("the file decodes to {bytes} bytes, at most {max_bytes} are taken; make it smaller, or raise ImageLimits::max_bytes")]
    Memory {
        /// Bytes of its pixels, in the file's own channels and depth.
        bytes: u64,
        /// Most bytes.
        max_bytes: u64,
    },
    /// A picture for which the budget has no room.
    #[error(
        "a picture of {width}×{height} pixels has no size within {max_soft_tokens} soft tokens of {unit}×{unit} pixels; \
         crop it, or raise max_soft_tokens"
    )]
    Aspect {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Side of a soft token, in pixels.
        unit: usize,
        /// Most soft tokens.
        max_soft_tokens: usize,
    },
}

/// A clip that cannot be read, or that no model can hear. Nothing was kept of it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// A clip without samples.
    #[error("the clip has no samples; leave it out, or give one that has sound")]
    Empty,
    /// A clip of fewer samples than one frame of features takes.
    #[error("the clip has {samples} samples at 16 kHz, at least {least} are needed; add silence after it, or leave it out")]
    TooShort {
        /// Its samples at 16 kHz.
        samples: usize,
        /// The fewest that give a frame.
        least: usize,
    },
    /// A clip of more seconds than the limits allow. Decoding stopped there.
    #[error(
        "the clip has more than {most} s, the most that AudioLimits::max_seconds allows; cut it into parts, or raise the limit"
    )]
    TooLong {
        /// Most seconds.
        most: u32,
    },
    /// A sample that is NaN or infinite.
    #[error("sample {frame} of the clip is {value}, expected a number within −1…1; was memory read that holds no samples?")]
    NotFinite {
        /// The sample's index in its channel.
        frame: u64,
        /// The sample.
        value: f32,
    },
    /// A sample far outside −1…1, as integers give that were not divided by their range.
    #[error("sample {frame} of the clip is {value}, expected a number within −1…1; divide 16-bit integers by 32768")]
    Scale {
        /// The sample's index in its channel.
        frame: u64,
        /// The sample.
        value: f32,
    },
    /// A sample rate that no clip has, or one above the limits.
    #[error("the clip's sample rate is {rate} Hz, expected {least} to {most} (AudioLimits::max_sample_rate); resample it before")]
    SampleRate {
        /// The rate in Hz.
        rate: u32,
        /// The lowest rate that is taken.
        least: u32,
        /// The highest rate that the limits allow.
        most: u32,
    },
    /// No channels, or more than the limits allow.
    #[error("the clip has {channels} channels, expected 1 to {most} (AudioLimits::max_channels); mix it down before")]
    Channels {
        /// Its channels.
        channels: usize,
        /// Most channels.
        most: usize,
    },
    /// Interleaved samples whose number the channels do not divide.
    #[error(
        "{samples} interleaved samples are no whole number of frames of {channels} channels; is the number of channels right?"
    )]
    Uneven {
        /// The samples of all channels.
        samples: usize,
        /// The channels.
        channels: usize,
    },
    /// Bytes that begin as no container that is read.
    #[error("the file begins with {found}, expected WAV, FLAC, MP3 or Ogg; convert it: ffmpeg -i FILE -ac 1 -ar 16000 out.wav")]
    Container {
        /// The first bytes, or the name of the format that they belong to.
        found: String,
    },
    /// A container that is read, with a codec that is not.
    #[error(
        "the {container} file has {codec}, expected PCM, FLAC, MP3 or Vorbis; convert it: ffmpeg -i FILE -ac 1 -ar 16000 out.wav"
    )]
    Codec {
        /// The container.
        container: String,
        /// The codec, as the file names it.
        codec: String,
    },
    /// A container without a track of sound.
    #[error("the {container} file has no audio track, expected one; is it the right file?")]
    NoTrack {
        /// The container.
        container: String,
    },
    /// A file whose header is broken, so that nothing can be decoded.
    #[error("the file's header cannot be read: {problem}; it is cut off or was changed, so fetch it again")]
    Header {
        /// The fault.
        problem: String,
    },
    /// A file that is damaged or ends early, though its header is whole.
    #[error(
        "the file is damaged after {seconds:.2} s of sound: {problem}; \
         fetch it again, or set AudioLimits::allow_damaged to take what can be read"
    )]
    Damaged {
        /// The seconds that were read before the fault.
        seconds: f64,
        /// The fault.
        problem: String,
    },
    /// The rate, the channels or the stream change within the file.
    #[error("after {seconds:.2} s the file goes on with {found}, expected {expected} throughout; split it there, or convert it")]
    Changed {
        /// The seconds before the change.
        seconds: f64,
        /// What follows.
        found: String,
        /// What the file began with.
        expected: String,
    },
    /// The resampler refuses a pair of rates or fails.
    #[error("the clip cannot be resampled from {rate} Hz to 16000 Hz: {problem}; resample it before")]
    Resample {
        /// The clip's rate in Hz.
        rate: u32,
        /// The resampler's error.
        problem: String,
    },
    /// Numbers of a feature extractor that no features follow from.
    #[error("feature extractor: {0}; take the numbers from the checkpoint's preprocessor_config.json")]
    Extractor(String),
}
